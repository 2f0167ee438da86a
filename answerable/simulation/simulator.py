"""A release, minute by minute: requests by weight, then what the alarms say and who acts on it.

Nobody waits: a record counts as of the minute that is played. CloudWatch has a record a little
later than this, and looks at alarms more often than this does once the traffic has shifted.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from answerable.simulation import cloudwatch
from answerable.simulation.fake_aws import FakeAws
from answerable.simulation.plan import NEW, OLD, Plan
from answerable.simulation.versions import NOISE, spread
from handler import metrics, prediction_id, scoring
from handler.release.deploy_hooks import HookRun, post_traffic_checks, pre_traffic_checks

MINUTE = 60_000
STEP = 5  # minutes between two looks when the traffic has shifted
TOLD, TOLD_AFTER = 0.3, 60  # of the predictions' outcomes come in, so many minutes later
WRONG = 0.1  # spreads of the output from what is right


class Step(NamedTuple):
    """Up to the end of a minute. `counts`: of asked, 4xx, 5xx and wrong, by version; `p99` in ms.
    `changed`: alarms that went into ALARM or left it, by their state; `done`: what came of it.
    """

    minute: int
    share: int
    counts: dict[str, Counter[str]]
    p99: dict[str, float | None]
    changed: dict[str, str]
    done: str


class Verdict(NamedTuple):
    """`what`: refused, rolled back, called (its owner was), or live. `by`: the alarm, or reasons.
    `minute`: of that. `asked`, `wrong`: of the new version, in all.
    """

    what: str = "live"
    minute: int = 0
    by: str = ""
    asked: int = 0
    wrong: int = 0


class GroundTruth:
    """What a story knows: that the old version, in `directory`, is right but for noise."""

    def __init__(self, directory: Path) -> None:
        self._scorer = scoring.load(directory)
        self.spread = spread(self._scorer.manifest)
        output = prediction_id.primary_output(self._scorer.manifest)[1]
        self._name = output.name if output else ""
        self._classes = {str(label): label for label in output.classes} if output else {}

    def right(self, body: bytes) -> list[Any]:
        """What should be answered: a value, or a class, for each row."""
        return [self.answer(json.loads(text)) for text in self._scorer.score(body).predictions]

    def answer(self, prediction: dict[str, Any]) -> Any:
        """What outcomes are compared with; None where nothing is."""
        found = prediction.get(self._name)
        return (
            self._classes[max(found, key=found.__getitem__)] if isinstance(found, dict) else found
        )

    def wrong(self, answer: Any, right: Any) -> bool:
        """Whether the two are too far apart."""
        return bool(abs(answer - right) > WRONG * self.spread if self.spread else answer != right)


class Simulator:
    """A release under way; `moments` plays it, and `verdict` is what came of it."""

    def __init__(
        self, plan: Plan, account: FakeAws, rate: int, seed: int, truth: GroundTruth | None = None
    ) -> None:
        self.verdict = Verdict()
        self._plan, self._account, self._rate, self._truth = plan, account, rate, truth
        self._rng = np.random.default_rng(seed)
        self._states = {alarm.name: cloudwatch.NO_DATA for alarm in plan.alarms}
        self._due: deque[tuple[int, str, Any]] = deque()
        self._sent = 0

    def moments(self, bodies: Iterator[bytes], minutes: int, gate: bool) -> Iterator[Step]:
        """Every minute of the shift, and every STEP minutes of the `minutes` after it."""
        plan = self._plan
        if gate and (against := self._against(pre_traffic_checks)):
            self.verdict = Verdict("refused", by=against)
            return
        start, counts = 0, {OLD: Counter[str](), NEW: Counter[str]()}
        for minute in range(1, plan.bake + minutes + 1):
            share = plan.share(minute - 1)
            for at, version in self._arrivals(minute, share):
                counts[version] += self._ask(version, at, next(bodies))
            self._tell(minute, share)
            if minute > plan.bake and (minute - plan.bake) % STEP:
                continue
            asked, wrong = (getattr(self.verdict, n) + counts[NEW][n] for n in ("asked", "wrong"))
            self.verdict = self.verdict._replace(asked=asked, wrong=wrong)
            changed = self._look(minute)
            done = self._act(minute)
            p99 = {version: self._p99(version, start, minute) for version in counts}
            yield Step(minute, share, counts, p99, changed, done)
            if self.verdict.what == "rolled back":
                return
            start, counts = minute, {OLD: Counter(), NEW: Counter()}

    def _against(self, question: Callable[[HookRun], None]) -> str:
        """What a hook has against the new version; nothing where there are no hooks."""
        return "; ".join(self._account.against(question)) if self._plan.environ else ""

    def _arrivals(self, minute: int, share: int) -> Iterator[tuple[int, str]]:
        """When a minute's requests come, and which version each gets to."""
        moments = np.sort(self._rng.integers(0, MINUTE, self._rate)) + (minute - 1) * MINUTE
        draws = self._rng.random(self._rate) * 100
        for at, draw in zip(moments.tolist(), draws.tolist(), strict=True):
            yield at, NEW if draw < share else OLD

    def _send(self, version: str, path: str, body: bytes, at: int) -> tuple[int, Any]:
        self._sent += 1
        status, text = self._account.send(version, path, body, f"rehearsed-{self._sent}", at)
        return status, json.loads(text or "{}")

    def _ask(self, version: str, at: int, body: bytes) -> Counter[str]:
        status, reply = self._send(version, "/predict", body, at)
        wrong = int(status >= 500)
        if self._truth and status < 400:
            wrong = self._outcomes(self._truth, version, at, body, reply["predictions"])
        return Counter(
            {"asked": 1, "4xx": 400 <= status < 500, "5xx": status >= 500, "wrong": wrong}
        )

    def _outcomes(
        self,
        truth: GroundTruth,
        version: str,
        at: int,
        body: bytes,
        predictions: list[dict[str, Any]],
    ) -> int:
        """Keep for later how some predictions turn out; give how many are wrong."""
        found = [truth.answer(prediction) for prediction in predictions]
        right = truth.right(body) if version == NEW else found
        told = self._rng.random(len(right)).tolist()
        noise = self._rng.normal(0.0, NOISE, len(right)).tolist()
        for prediction, actual, draw, off in zip(predictions, right, told, noise, strict=True):
            if draw < TOLD and actual is not None:
                actual = actual + off * truth.spread if truth.spread else actual
                self._due.append((at + TOLD_AFTER * MINUTE, prediction["id"], actual))
        return sum(map(truth.wrong, found, right))

    def _tell(self, minute: int, share: int) -> None:
        """The outcomes that are known by now, told to whichever version takes them."""
        now, outcomes = minute * MINUTE, []
        while self._due and self._due[0][0] < now:
            _, id, actual = self._due.popleft()
            outcomes.append({"prediction_id": id, "actual": actual})
        if outcomes:
            version = NEW if self._rng.random() * 100 < share else OLD
            self._send(version, "/feedback", json.dumps({"outcomes": outcomes}).encode(), now - 1)

    def _look(self, minute: int) -> dict[str, str]:
        """Look at every alarm; those that are in ALARM now and were not, or the other way round."""
        before, metrics = dict(self._states), self._account.metrics
        for alarm in self._plan.alarms:
            if alarm.parts:
                loud = any(self._states[part] == "ALARM" for part in alarm.parts)
                self._states[alarm.name] = "ALARM" if loud else "OK"
            # what nobody writes here has a history in the account, and no news of this release
            elif metrics.data.keys() & cloudwatch.keys(alarm.properties):
                found = cloudwatch.evaluate_at(
                    alarm.properties, metrics, minute * MINUTE, before[alarm.name]
                )
                self._states[alarm.name] = found.state
        return {
            name: state
            for name, state in self._states.items()
            if state != before[name] and "ALARM" in (state, before[name])
        }

    def _act(self, minute: int) -> str:
        """What CodeDeploy, a rule, the hook or a person does at the end of a minute."""
        loud = [alarm for alarm in self._plan.alarms if self._states[alarm.name] == "ALARM"]
        shifting = minute <= self._plan.bake
        back = [a for a in loud if a.returns or (a.canary and shifting)]
        who, by = "", ""
        if back:
            who, by = "CodeDeploy" if back[0].canary else "the rule", back[0].name
        elif minute == self._plan.bake and (against := self._against(post_traffic_checks)):
            who, by = "CodeDeploy", f"the hook after traffic: {against}"
        if by:
            self.verdict = self.verdict._replace(what="rolled back", minute=minute, by=by)
            return f"{who} goes back to version {OLD}"
        called = [alarm.name for alarm in loud if alarm.calls]
        if called and self.verdict.what == "live":
            self.verdict = self.verdict._replace(what="called", minute=minute, by=called[0])
            return "its owner is called"
        return ""

    def _p99(self, version: str, start: int, end: int) -> float | None:
        dimensions = frozenset({"service": self._plan.service, "version": version}.items())
        key = (metrics.NAMESPACE, metrics.LATENCY, dimensions)
        return self._account.metrics.statistic(key, "p99", start * MINUTE, end * MINUTE)
