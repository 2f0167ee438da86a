"""Simulate a release minute by minute: requests by weight, alarm states, and who acts on them.

Time is simulated: a record counts as of its simulated minute. Real CloudWatch has a record a
little later, and evaluates alarms more often than every STEP_MINUTES after the shift.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from answerable.simulation import cloudwatch
from answerable.simulation.fake_aws import FakeAws
from answerable.simulation.plan import CANDIDATE, CURRENT, Plan
from answerable.simulation.versions import NOISE, spread
from handler import prediction_id, scoring
from handler.release.deploy_hooks import HookRun, post_traffic_checks, pre_traffic_checks

MINUTE_MS = 60_000
RUN_MINUTE = 10  # of an hour, in which infra/drift.py runs the monitor
STEP_MINUTES = 5  # between two evaluations after the shift
OUTCOME_SHARE, OUTCOME_DELAY_MINUTES = 0.3, 60  # of the predictions that get an outcome
WRONG_SPREADS = 0.1  # from the true value, in spreads of the output


class Step(NamedTuple):
    """The state at the end of a minute, by version, since the step before.

    `counts` has requests, 4xx, 5xx and wrong. `changed` has the alarms that went into ALARM or
    left it, with their state; `action` is what somebody did about it.
    """

    minute: int
    share: int
    counts: dict[str, Counter[str]]
    changed: dict[str, str]
    action: str


class Verdict(NamedTuple):
    """The result: "refused", "rolled back", "notified" or "live", when, and by which alarm.

    `requests` and `wrong` count the candidate's, in all.
    """

    result: str = "live"
    minute: int = 0
    cause: str = ""
    requests: int = 0
    wrong: int = 0


class GroundTruth:
    """The truth of a scenario: the current version's predictions, in `directory`, with noise."""

    def __init__(self, directory: Path) -> None:
        self._scorer = scoring.load(directory)
        self.spread = spread(self._scorer.manifest)
        output = prediction_id.primary_output(self._scorer.manifest)[1]
        self._name = output.name if output else ""
        self._classes = {str(label): label for label in output.classes} if output else {}

    def true_values(self, body: bytes) -> list[Any]:
        """Return the right value or class for each row."""
        return [self.value(json.loads(text)) for text in self._scorer.predict(body)]

    def value(self, prediction: dict[str, Any]) -> Any:
        """Return what outcomes are compared with, None if nothing is."""
        value: Any = prediction.get(self._name)
        if isinstance(value, dict):
            return self._classes[max(value, key=value.__getitem__)]
        return value

    def is_wrong(self, value: Any, true_value: Any) -> bool:
        """Return whether a value is too far from the truth."""
        if self.spread:
            return bool(abs(value - true_value) > WRONG_SPREADS * self.spread)
        return bool(value != true_value)


class Simulator:
    """A release under way: `steps` runs it, `verdict` is its result."""

    def __init__(
        self, plan: Plan, aws: FakeAws, rate: int, seed: int, truth: GroundTruth | None = None
    ) -> None:
        self.verdict = Verdict()
        self._plan, self._aws, self._rate, self._truth = plan, aws, rate, truth
        self._rng = np.random.default_rng(seed)
        self._states = {alarm.name: cloudwatch.NO_DATA for alarm in plan.alarms}
        self._outcomes: defaultdict[int, list[Any]] = defaultdict(list)  # by minute
        self._sent = 0

    def steps(self, bodies: Iterator[bytes], minutes: int, hook: bool) -> Iterator[Step]:
        """Yield every minute of the shift, and every STEP_MINUTES of the `minutes` after it."""
        plan = self._plan
        if hook and (reasons := self._run_hook(pre_traffic_checks)):
            self.verdict = Verdict("refused", cause=reasons)
            return
        counts = {CURRENT: Counter[str](), CANDIDATE: Counter[str]()}
        for minute in range(1, plan.bake_minutes + minutes + 1):
            share = plan.share(minute - 1)
            for sent_at, version in self._arrivals(minute, share):
                counts[version] += self._predict(version, sent_at, next(bodies))
            self._send_outcomes(minute, share)
            if minute > 60 and minute % 60 == RUN_MINUTE:
                live = CANDIDATE if minute > plan.bake_minutes else CURRENT
                self._aws.run_monitor(live, minute * MINUTE_MS - 1)
            if minute > plan.bake_minutes and (minute - plan.bake_minutes) % STEP_MINUTES:
                continue
            self.verdict = self.verdict._replace(
                requests=self.verdict.requests + counts[CANDIDATE]["requests"],
                wrong=self.verdict.wrong + counts[CANDIDATE]["wrong"],
            )
            yield Step(minute, share, counts, self._evaluate(minute), self._act(minute))
            if self.verdict.result == "rolled back":
                return
            counts = {CURRENT: Counter(), CANDIDATE: Counter()}

    def _run_hook(self, checks: Callable[[HookRun], None]) -> str:
        return "; ".join(self._aws.run_hook(checks)) if self._plan.environ else ""

    def _arrivals(self, minute: int, share: int) -> Iterator[tuple[int, str]]:
        """Yield when a minute's requests arrive (ms), and at which version."""
        offsets = np.sort(self._rng.integers(0, MINUTE_MS, self._rate)) + (minute - 1) * MINUTE_MS
        draws = self._rng.random(self._rate) * 100
        for sent_at, draw in zip(offsets.tolist(), draws.tolist(), strict=True):
            yield sent_at, CANDIDATE if draw < share else CURRENT

    def _send(self, version: str, path: str, body: bytes, sent_at: int) -> tuple[int, Any]:
        self._sent += 1
        status, text = self._aws.send(version, path, body, f"simulated-{self._sent}", sent_at)
        return status, json.loads(text or "{}")

    def _predict(self, version: str, sent_at: int, body: bytes) -> Counter[str]:
        status, reply = self._send(version, "/predict", body, sent_at)
        wrong = int(status >= 500)
        if self._truth and status < 400:
            wrong = self._judge(self._truth, version, sent_at, body, reply["predictions"])
        client_error, server_error = 400 <= status < 500, status >= 500
        return Counter({"requests": 1, "4xx": client_error, "5xx": server_error, "wrong": wrong})

    def _judge(
        self, truth: GroundTruth, version: str, sent_at: int, body: bytes, predictions: list[Any]
    ) -> int:
        """Keep the outcomes of some predictions for later, and return how many are wrong."""
        values = [truth.value(prediction) for prediction in predictions]
        true_values = truth.true_values(body) if version == CANDIDATE else values
        draws = self._rng.random(len(values)).tolist()
        noise = self._rng.normal(0.0, NOISE, len(values)).tolist()
        outcomes = self._outcomes[sent_at // MINUTE_MS + 1 + OUTCOME_DELAY_MINUTES]
        for prediction, actual, draw, error in zip(
            predictions, true_values, draws, noise, strict=True
        ):
            if draw < OUTCOME_SHARE and actual is not None:
                actual = actual + error * truth.spread if truth.spread else actual
                outcomes.append({"prediction_id": prediction["id"], "actual": actual})
        return sum(map(truth.is_wrong, values, true_values))

    def _send_outcomes(self, minute: int, share: int) -> None:
        """Send the outcomes that became known in a minute to a version drawn by weight."""
        if outcomes := self._outcomes.pop(minute, []):
            version = CANDIDATE if self._rng.random() * 100 < share else CURRENT
            body = json.dumps({"outcomes": outcomes}).encode()
            self._send(version, "/feedback", body, minute * MINUTE_MS - 1)

    def _evaluate(self, minute: int) -> dict[str, str]:
        """Evaluate every alarm; return the states of those that went into ALARM or left it."""
        before, metrics = dict(self._states), self._aws.metrics
        for alarm in self._plan.alarms:
            # a metric that nothing here writes says nothing about this release
            if metrics.data.keys() & cloudwatch.keys(alarm.properties):
                point = cloudwatch.evaluate_at(
                    alarm.properties, metrics, minute * MINUTE_MS, before[alarm.name]
                )
                self._states[alarm.name] = point.state
        return {
            name: state
            for name, state in self._states.items()
            if state != before[name] and "ALARM" in (state, before[name])
        }

    def _act(self, minute: int) -> str:
        """Return what CodeDeploy, the rule, the hook or the owner does at the end of a minute."""
        alarming = [alarm for alarm in self._plan.alarms if self._states[alarm.name] == "ALARM"]
        shifting = minute <= self._plan.bake_minutes
        actor, cause = "", ""
        if triggers := [a for a in alarming if a.auto_rollback or (a.canary and shifting)]:
            actor = "CodeDeploy" if triggers[0].canary else "the rule"
            cause = triggers[0].name
        elif minute == self._plan.bake_minutes and (reasons := self._run_hook(post_traffic_checks)):
            actor, cause = "CodeDeploy", f"the hook after traffic: {reasons}"
        if cause:
            self.verdict = self.verdict._replace(result="rolled back", minute=minute, cause=cause)
            return f"{actor} rolls back to version {CURRENT}"
        cause = next((alarm.name for alarm in alarming if alarm.notifies), "")
        if cause and self.verdict.result == "live":
            self.verdict = self.verdict._replace(result="notified", minute=minute, cause=cause)
            return "the owner is notified"
        return ""
