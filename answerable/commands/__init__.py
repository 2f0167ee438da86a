"""The commands of `answerable`, one module each."""

import argparse


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, for `infra.project.find_model`."""
    parser.add_argument(
        "--model",
        default="",
        metavar="NAME",
        help="a model of model_artifacts/, or its folder's path (default: the only one)",
    )
