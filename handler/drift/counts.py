"""Bin counts of all targets over some time, added up from records."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from handler.drift import BINS
from handler.drift.decision import Decision, TargetCounts, decide
from handler.drift.targets import Target
from handler.manifest import Alarms


class Counts:
    """`by_target`: the values in each bin. `missing`, `unseen`: values by feature, of those.

    `rows`: predictions, also those that were not sampled. `unseen_rows`: those with unseen values.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.by_target = [[0] * BINS for _ in targets]
        self.missing, self.unseen = Counter[str](), Counter[str]()
        self.rows = self.unseen_rows = 0

    def add_bins(self, record: Mapping[str, Any]) -> bool:
        """Add the record of a request or a batch; return whether it has bins of these targets."""
        bins = record.get("bins")
        if not isinstance(bins, list) or not bins or len(bins) != len(self.targets):
            return False
        lists = [numbers if isinstance(numbers, list) else [numbers] for numbers in bins]
        if any(type(n) is not int or not 1 <= n <= BINS for n in chain.from_iterable(lists)):
            return False
        for counts, numbers in zip(self.by_target, lists, strict=True):
            for number in numbers:
                counts[number - 1] += 1
        self._add_totals(record, record.get("Rows"))
        return True

    def add_counts(self, record: Mapping[str, Any]) -> None:
        """Add the record of a period, which `as_fields` made."""
        counts = record.get("counts", ())
        if len(counts) == len(self.targets):
            for total, added in zip(self.by_target, counts, strict=True):
                total[:] = map(int.__add__, total, added)
            self._add_totals(record, record.get("rows"))

    def _add_totals(self, record: Mapping[str, Any], rows: Any) -> None:
        self.rows += _count(rows)
        self.unseen_rows += _count(record.get("unseen_rows"))
        for total, name in ((self.missing, "missing_counts"), (self.unseen, "unseen_counts")):
            if isinstance(counts := record.get(name), dict):
                total.update({feature: _count(count) for feature, count in counts.items()})

    def as_fields(self) -> dict[str, Any]:
        """Return the fields of a period's record; none without rows."""
        fields = {
            "rows": self.rows,
            "counts": self.by_target if any(map(any, self.by_target)) else None,
            "unseen_rows": self.unseen_rows,
            "missing_counts": dict(self.missing),
            "unseen_counts": dict(self.unseen),
        }
        return {name: value for name, value in fields.items() if value}

    def decide(self, alarms: Alarms, looks: int) -> Decision:
        """Return what has drifted, by the thresholds of the manifest."""
        by_target = []
        for target, counts in zip(self.targets, self.by_target, strict=True):
            name, output, baseline, ordered, baseline_rows = target
            numbers = (0, 0) if output else (self.missing[name], self.unseen[name])
            missing_share = baseline.missing_share
            by_target.append(
                TargetCounts(name, output, counts, baseline_rows, *numbers, missing_share, ordered)
            )
        return decide(by_target, self.rows, self.unseen_rows, alarms, looks)


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
