"""`python -m tests.docs [--check] [PAGE…]`: write the generated pages of docs/, or check them."""

import argparse
import importlib
import os
import sys

from tests.fixtures.server import ROOT

PAGES = ("reliability", "reference", "account", "models")  # pytest must come before other imports


def main() -> None:
    """Write the pages, or exit with the name of one that is stale."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a stale page")
    parser.add_argument(
        "pages", nargs="*", metavar="PAGE", help=f"{', '.join(PAGES)} (default: all)"
    )
    args = parser.parse_args()
    os.chdir(ROOT)
    for page in args.pages or PAGES:
        for path, text in importlib.import_module(f"tests.docs.{page}").files().items():
            if not args.check:
                path.write_text(text, encoding="utf-8")
            elif not path.exists() or path.read_text(encoding="utf-8") != text:
                sys.exit(f"{path.relative_to(ROOT)} is stale: python -m tests.docs {page}")


if __name__ == "__main__":
    main()
