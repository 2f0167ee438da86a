"""The embedded metric format: what every record must keep to before CloudWatch takes it."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests import schema
from tools.cloudwatch import Metrics

SCHEMA = json.loads(Path(__file__).with_name("emf.schema.json").read_text())


def validate(record: Mapping[str, Any]) -> None:
    """Raise unless a record keeps to the embedded metric format."""
    schema.validate(record, SCHEMA)
    assert len(json.dumps(record)) < 256_000
    for directive in record["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            assert all(isinstance(record[name], str) and record[name] for name in names)
        for metric in directive["Metrics"]:
            found = record[metric["Name"]]
            values = found if isinstance(found, list) else [found]
            assert 0 < len(values) <= 100
            assert all(type(value) in (int, float) and math.isfinite(value) for value in values)


def metrics(records: Iterable[Mapping[str, Any]]) -> Metrics:
    """The metrics of records, each of which must be valid."""
    kept = [record for record in records if "_aws" in record]
    for record in kept:
        validate(record)
    return Metrics.of(kept)
