"""Write docs/reference/contract-file.md from the manifest's types and their docstrings."""

import inspect
from collections.abc import Iterator
from typing import Any

from answerable.packing.contract_file import ENCODER_KEYS, FEATURE_KEYS, OUTPUT_KEYS, toml_value
from handler.manifest import (
    Alarms,
    Decision,
    Feature,
    Image,
    Limits,
    OutcomeValue,
    Output,
    Tokenizer,
)

SECTIONS: tuple[tuple[str, str, Any, tuple[str, ...]], ...] = (
    ("[features.NAME]", "One feature, by the name of its column.", Feature, FEATURE_KEYS),
    (
        "[features.NAME.tokenizer]",
        "Makes a text feature of tokens. `file` is relative to the model.",
        Tokenizer,
        ENCODER_KEYS["tokenizer"],
    ),
    ("[features.NAME.image]", "Makes a feature of pictures.", Image, ENCODER_KEYS["image"]),
    (
        "[outputs.NAME]",
        "One output, by its name in the graph. `targets` makes one output of each column, `top_k` "
        "keeps the best classes: see [Shape the answer](../how-to/outputs.md).",
        Output,
        OUTPUT_KEYS,
    ),
    ("[outputs.NAME.decision]", "A decision made from an output.", Decision, Decision._fields),
    ("[limits]", "Limits of a request. The defaults come from the sample.", Limits, Limits._fields),
    ("[alarms]", "When somebody is notified.", Alarms, Alarms._fields),
    ("[outcome_value]", "What an outcome is worth.", OutcomeValue, OutcomeValue._fields),
)

# an example of each key, by table
EXAMPLES: dict[str, Any] = {
    "[features.NAME]": {
        "type": "number", "unit": "years", "description": "Age at the visit", "minimum": 18,
        "maximum": 120, "out_of_range": "reject", "categories": ["basic", "plus"],
        "unknown_category": "accept", "max_length": 500, "nullable": True, "fill_value": 0,
        "log_policy": "hash", "example": 42, "tokenizer": {"file": "tokenizer.json"},
        "image": {"size": [224, 224]},
    },
    "[features.NAME.tokenizer]": {"file": "tokenizer.json", "max_tokens": 256},
    "[features.NAME.image]": {
        "size": [224, 224], "mode": "RGB", "resize": 256, "filter": "bicubic",
        "exif_orientation": True, "scale": 0.00392156862745098, "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225], "layout": "NCHW", "max_bytes": 1_000_000,
        "max_pixels": 1_000_000,
    },
    "[outputs.NAME]": {
        "name": "risk", "unit": "points", "description": "Risk within 90 days",
        "kind": "probabilities", "classes": ["stays", "leaves"], "targets": ["price", "demand"],
        "top_k": 5,
        "decision": {"class_label": "leaves", "threshold": 0.3},
    },
    "[outputs.NAME.decision]": {
        "threshold": 0.3, "above": "call", "below": "wait", "class_label": "leaves",
        "review": [0.25, 0.35],
    },
    "[limits]": {"rows": 100, "body_bytes": 100_000, "response_bytes": 1_000_000, "elements": 9000},
    "[alarms]": {
        "availability": 99.5, "latency_ms": 300, "client_error_max_percent": 10,
        "drift_threshold": 0.1, "drift_hours": 6, "drift_min_rows": 200, "unseen_max_percent": 2,
        "max_days_without_outcomes": 3, "min_daily_impact": 100, "queue_minutes": 5,
    },
    "[outcome_value]": {
        "unit": "USD", "value": 10, "cost": 2, "max_outcome_age_days": 90,
        "outcomes": {"leaves": {"leaves": 40, "stays": -5}},
    },
}  # fmt: skip


def lines() -> Iterator[str]:
    """Yield the page's lines: a section per table, with keys, defaults and meaning."""
    yield "`answerable pack --contract FILE` reads TOML or YAML. All keys are optional, but for the"
    yield "`threshold` of a decision. At the top level: `description`, `runbook`."
    for title, summary, kind, keys in SECTIONS:
        yield f"\n## `{title}`\n\n{summary}\n\n| key | default | example |\n|---|---|---|"
        for key in keys:
            default = kind._field_defaults.get(key)
            shown = "" if default in (None, "", (), {}) else f"`{default}`"
            yield f"| `{key}` | {shown} | `{toml_value(EXAMPLES[title][key])}` |"
        yield f"\n{inspect.cleandoc(kind.__doc__)}"
