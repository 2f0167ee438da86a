"""What a simulation reads from the template of the stack."""

import pytest

from answerable.simulation import plan
from answerable.simulation.plan import SimulationError
from tests.fixtures.artifact import DIABETES
from tests.infra.conftest import Synth, Template

CANARY = {"crashes", "server-errors", "client-errors", "latency"}


def test_the_defaults(template: Template) -> None:
    found = plan.read(template.body)
    assert (found.service, found.bake_minutes) == ("diabetes-dev", 10)
    assert [found.share(minute) for minute in (0, 9, 10)] == [10, 10, 100]
    assert found.environ["MINIMUM_REQUESTS"] == "20"
    alarms = {alarm.name.removeprefix("dev-diabetes-"): alarm for alarm in found.alarms}
    assert {name for name, alarm in alarms.items() if alarm.canary} == {
        f"canary-{n}-v2" for n in CANARY
    }
    for name in ("drift-outputs", "drift-inputs", "drift-unseen", "drift-silent"):
        assert alarms[name].notifies


def test_settings_change_the_plan(synth: Synth) -> None:
    linear = plan.read(synth.template("rollout=linear", "bake_minutes=18").body)
    assert (linear.bake_minutes, linear.share(0), linear.share(17), linear.share(18)) == (
        18,
        10,
        90,
        100,
    )
    at_once = plan.read(synth.template("rollout=all-at-once").body)
    assert (at_once.bake_minutes, at_once.share(0), at_once.environ) == (0, 100, {})
    with pytest.raises(SimulationError, match="pinned_version"):
        plan.read(synth.template("pinned_version=7").body)


def test_synthesis_is_that_of_the_app() -> None:
    found = plan.read(plan.synthesise(DIABETES.parent, "diabetes", {"stage": "prod"}))
    assert found.service == "diabetes-prod"
    with pytest.raises(SimulationError, match="Unknown setting 'bake_minute'"):
        plan.synthesise(DIABETES.parent, "diabetes", {"bake_minute": "3"})
