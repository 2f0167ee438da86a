"""Write docs/reference/contract-file.md from the manifest's types and their docstrings."""

import inspect
from collections.abc import Iterator
from typing import Any

from answerable.packing.contract_file import ENCODER_KEYS, FEATURE_KEYS, OUTPUT_KEYS
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
        "Makes a text feature of tokens. `file` is relative to the contract file.",
        Tokenizer,
        ENCODER_KEYS["tokenizer"],
    ),
    ("[features.NAME.image]", "Makes a feature of pictures.", Image, ENCODER_KEYS["image"]),
    ("[outputs.NAME]", "One output, by its name in the graph.", Output, OUTPUT_KEYS),
    ("[outputs.NAME.decision]", "A decision made from an output.", Decision, Decision._fields),
    ("[limits]", "Limits of a request. The defaults come from the sample.", Limits, Limits._fields),
    ("[alarms]", "When somebody is notified.", Alarms, Alarms._fields),
    ("[outcome_value]", "What an outcome is worth.", OutcomeValue, OutcomeValue._fields),
)


def lines() -> Iterator[str]:
    """Yield the page's lines: a section per table, with keys, defaults and meaning."""
    yield "`answerable pack --contract FILE` reads TOML or YAML. All keys are optional, but for the"
    yield "`threshold` of a decision. At the top level: `description`, `runbook`."
    for title, summary, kind, keys in SECTIONS:
        yield f"\n## `{title}`\n\n{summary}\n\n| key | default |\n|---|---|"
        for key in keys:
            default = kind._field_defaults.get(key)
            yield f"| `{key}` | {'' if default in (None, '', (), {}) else f'`{default}`'} |"
        yield f"\n{inspect.cleandoc(kind.__doc__)}"
