"""The rollback functions: a probe of the previous version, and the automatic rollback.

    schedule, deployment ─ on_schedule ─ checks the previous version and where `live` is ─ metrics
    drift or impact alarm ─ on_alarm ─ checks it ─ moves `live`, once ─ notifies the alarms' topic

EventBridge delivers at least once and in any order. So `on_alarm` compares the alarm's version
with the live one: an alarm about another version is late, or a repetition.
"""

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from handler import metrics, request_log
from handler.drift import monitor
from handler.release import rollback
from handler.release.deploy_hooks import client, deadline_check
from handler.release.rollback import Log, ReleaseError, Service

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

NOTE = "rolled back automatically at"


def on_schedule(event: Any, context: "LambdaContext") -> None:
    """Check the previous version, if there is one, and the alias; write the metrics."""
    steps: list[str] = []
    values: dict[str, int] = {}
    reason, facts = _attempt(lambda: _check(_service(context), values, steps.append))
    facts = {"service": os.environ["SERVICE_NAME"], "steps": steps, "reason": reason, **facts}
    line = metrics.log_line("ERROR" if reason else "INFO", "rollback check", **facts)
    values[metrics.ROLLBACK_UNAVAILABLE] = int(bool(reason))
    line |= values
    by_service = metrics.directives(values, dimensions=metrics.BY_SERVICE)
    # written whatever the log level, because missing data is an alarm
    metrics.write(line | {"_aws": metrics.emf(line, by_service)})


def _check(service: Service, values: dict[str, int], log: Log) -> None:
    live, stack = service.alias()["FunctionVersion"], os.environ["STACK_LIVE_VERSION"]
    values[metrics.ALIAS_MOVED] = int(live != stack)
    if live != stack:
        log(f"the stack has version {stack}")
    target = service.previous(live)
    if target is None:
        log(f"nothing was live before version {live}")
        return
    log(f"version {live} is live; before it was {target}")
    rollback.verify_version(service, target, log)


def on_alarm(event: Any, context: "LambdaContext") -> None:
    """Roll back; log and publish what was done, or why it was not.

    It raises only if it cannot publish. Lambda then invokes it again, which changes nothing more.
    """
    detail = event.get("detail") if isinstance(event, dict) else None
    alarm = detail if isinstance(detail, dict) else {}
    name, service = alarm.get("alarmName"), os.environ["SERVICE_NAME"]
    steps: list[str] = []
    reason, facts = _attempt(lambda: _roll_back(_service(context), alarm, steps.append))
    if reason:
        steps.append(f"stopped: {reason}")
    request_log.log("WARNING", "rollback", service=service, alarm=name, steps=steps, **facts)
    client("sns").publish(
        TopicArn=os.environ["TOPIC_ARN"],
        Subject=f"{service}: {'no rollback' if reason else 'rolled back'}"[:100],
        Message="\n".join([f"{name}:", *steps]),
    )


def _roll_back(service: Service, alarm: Any, log: Log) -> None:
    queries = alarm["configuration"]["metrics"]
    alias, now = service.alias(), datetime.now(UTC)
    live = alias["FunctionVersion"]
    dimensions = [q["metricStat"]["metric"]["dimensions"] for q in queries if "metricStat" in q]
    # the workers of jobs and batches count their versions by themselves
    of_api = [names for names in dimensions if names["service"] == os.environ["SERVICE_NAME"]]
    versions = sorted({names["version"] for names in of_api if "version" in names})
    if not versions:  # an alarm of drift: the monitor's last record says what it is about
        group, now_ms = os.environ["MONITOR_LOG_GROUP"], int(now.timestamp() * 1000)
        versions = [monitor.latest_version(client("logs"), group, now_ms)]
    if versions != [live]:
        raise ReleaseError(f"the alarm is about version {', '.join(versions)}, and {live} is live")
    if rollback.weights(alias) or service.running():
        raise ReleaseError("a deployment is under way")
    last = re.search(rf"{NOTE} (\S+?),", alias.get("Description", ""))
    pause = timedelta(hours=float(os.environ["COOLDOWN_HOURS"]))
    if last and now - datetime.fromisoformat(last[1]) < pause:
        raise ReleaseError(f"it was {last[0].rstrip(',')} already; roll back by hand")
    target = service.previous(live)
    if target is None:
        raise ReleaseError(f"nothing was live before version {live}")
    targets = rollback.verify_version(service, target, log)
    note = f"{NOTE} {now.isoformat(timespec='seconds')}, from version {live} to {target}"
    rollback.move(service, targets, alias, log, note=note)
    pins = " ".join(f"-c {k}={v}" for k, v in rollback.pin_settings(service, targets).items())
    log(f"To keep it, pin the stack: answerable deploy STAGE {pins}")


def _service(context: "LambdaContext") -> Service:
    """Return the deployed model, from the environment."""
    group = os.environ.get("APPLICATION", ""), os.environ.get("DEPLOYMENT_GROUP", "")
    return Service(
        client,
        os.environ["FUNCTION_NAME"],
        worker=os.environ.get("WORKER_NAME", ""),
        group=group if all(group) else None,
        before_each_call=deadline_check(context),
    )


def _attempt(action: Callable[[], Any]) -> tuple[str, dict[str, Any]]:
    """Return why an action failed, "" if it did not, and facts for the log."""
    try:
        action()
    except ReleaseError as error:
        return str(error), {}
    except Exception as error:
        trace = request_log.stack_trace(error)
        return f"it failed: {request_log.error_summary(error)}", {"trace": trace}
    return "", {}
