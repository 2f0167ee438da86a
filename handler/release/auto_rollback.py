"""The way back watched, and taken when outputs or outcomes say so: `handler.release.auto_rollback.on_schedule`
and `…on_alarm`, functions of the image.

    schedule, deployment ─ on_schedule ─ proves the version before ─ metric RollbackUnavailable ─ alarm
    drift or impact alarm ─ on_alarm ─ proves it too ─ moves `live`, once ─ the alarms' topic

EventBridge delivers at least once and in any order, so `on_alarm` goes by what is live now: an
alarm about another version is old, or the same again.
"""

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from handler import metrics, request_log
from handler.drift import monitor
from handler.release import rollback
from handler.release.deploy_hooks import client, deadline_check
from handler.release.rollback import Log, ReleaseError, Service

NOTE = "gone back by itself at"


def on_schedule(event: Any, context: Any) -> None:
    """Lambda entry point of the probe. Where nothing was live before there is nothing to miss."""
    said: list[str] = []
    why, facts = _attempt(lambda: _proved(_service(context), said.append))
    line = metrics.log_line(
        "ERROR" if why else "INFO",
        "rollback check",
        service=os.environ["SERVICE_NAME"],
        said=said,
        reason=why,
        **facts,
    )
    line[metrics.ROLLBACK_UNAVAILABLE] = int(bool(why))
    by_service = metrics.directives([metrics.ROLLBACK_UNAVAILABLE], dimensions=metrics.BY_SERVICE)
    # written whatever the log level, because missing data is an alarm
    metrics.write(line | {"_aws": metrics.emf(line, by_service)})


def _proved(service: Service, say: Log) -> None:
    live = service.alias()["FunctionVersion"]
    target = service.previous(live)
    if target is None:
        say(f"nothing was live before version {live}")
        return
    say(f"version {live} is live; before it was {target}")
    rollback.verify_version(service, target, say)


def on_alarm(event: Any, context: Any) -> None:
    """Lambda entry point of the rollback. Says what it did, or why not, in its log and on the
    topic; it does not fail, because it would be called again.
    """
    said: list[str] = []
    why, facts = _attempt(lambda: _back(_service(context), event["detail"], said.append))
    if why:
        said.append(f"stopped: {why}")
    name, service = event.get("detail", {}).get("alarmName"), os.environ["SERVICE_NAME"]
    request_log.log("WARNING", "rollback", service=service, alarm=name, said=said, **facts)
    subject = f"{service}: {'no rollback' if why else 'rolled back'}"
    client("sns").publish(
        TopicArn=os.environ["TOPIC_ARN"], Subject=subject, Message="\n".join([f"{name}:", *said])
    )


def _back(service: Service, alarm: Any, say: Log) -> None:
    alias, now = service.alias(), datetime.now(UTC)
    live = alias["FunctionVersion"]
    dimensions = [
        query["metricStat"]["metric"]["dimensions"]
        for query in alarm["configuration"]["metrics"]
        if "metricStat" in query
    ]
    about = sorted({names["version"] for names in dimensions if "version" in names})
    if not about:  # an alarm of drift
        now_ms = int(now.timestamp() * 1000)
        about = [monitor.latest_version(client("logs"), os.environ["MONITOR_LOG_GROUP"], now_ms)]
    if about != [live]:
        raise ReleaseError(f"the alarm is about version {', '.join(about)}, and {live} is live")
    if rollback.weights(alias) or service.running():
        raise ReleaseError("a deployment is under way")
    last = re.search(rf"{NOTE} (\S+?),", alias.get("Description", ""))
    pause = timedelta(hours=float(os.environ["COOLDOWN_HOURS"]))
    if last and now - datetime.fromisoformat(last[1]) < pause:
        raise ReleaseError(f"it has {last[0].rstrip(',')} already; the next time is yours")
    target = service.previous(live)
    if target is None:
        raise ReleaseError(f"nothing was live before version {live}")
    targets = rollback.verify_version(service, target, say)
    note = f"{NOTE} {now.isoformat(timespec='seconds')}, from version {live} to {target}"
    rollback.move(service, targets, alias, say, note=note)
    pins = " ".join(f"-c {k}={v}" for k, v in rollback.pin_settings(service, targets).items())
    say(f"The stack has to be told: answerable deploy STAGE {pins}")


def _service(context: Any) -> Service:
    """The deployed model, from the environment."""
    group = os.environ.get("APPLICATION", ""), os.environ.get("DEPLOYMENT_GROUP", "")
    return Service(
        client,
        os.environ["FUNCTION_NAME"],
        worker=os.environ.get("WORKER_NAME", ""),
        group=group if all(group) else None,
        before_each_call=deadline_check(context),
    )


def _attempt(what: Callable[[], None]) -> tuple[str, dict[str, Any]]:
    """Why it could not be done, "" if it was, and what helps to find the fault."""
    try:
        what()
    except ReleaseError as error:
        return str(error), {}
    except Exception as error:
        return f"it failed: {request_log.error_summary(error)}", {
            "trace": request_log.stack_trace(error)
        }
    return "", {}
