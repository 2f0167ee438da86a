"""What CodeDeploy asks before and after it moves traffic: `handler.release.deploy_hooks.before_traffic`
and `…after_traffic`, functions of the image that is being released.

    CodeDeploy ─ hook ─ invokes the version's own ARN ─ Succeeded | Failed ─ CodeDeploy

Failed is also the answer to every doubt: an exception, or no time left to be sure. Where there is
no call back at all, CodeDeploy waits an hour and then rolls back too.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from handler import manifest as manifests
from handler import metrics, request_log, settings
from handler.errors import ArtifactError
from handler.manifest import Manifest
from handler.release import compatibility, version_client
from handler.release.rollback import versions_of_deployment
from handler.release.version_client import OutOfTimeError, VersionClient

# for the call that is under way (its read timeout, twice), and for calling back
RESERVE_SECONDS = 75.0
READ_SECONDS = 30.0
# captured instances that are replayed, and how far they are sought
MAX_LOGGED_INSTANCES, LOGGED_INSTANCES_DAYS, PAGES = 50, 7, 20
Client = Callable[[str], Any]
Facts = dict[str, Any]


class HookRun(NamedTuple):
    """One execution of a hook. `target` is the version being released, `live` the alias that the
    clients reach; `reasons` speak against it, `facts` are for the record.
    """

    client: Client
    environ: Mapping[str, str]
    manifest: Manifest
    deployment: str
    target: VersionClient
    live: VersionClient
    reasons: list[str]
    facts: Facts

    def note(self, **facts: Any) -> None:
        """Keep something for the record."""
        self.facts.update(facts)


def before_traffic(event: Any, context: Any) -> None:
    """Lambda entry point of BeforeAllowTraffic: is the version what it says, and may it follow?"""
    _hook("before", event, context, pre_traffic_checks)


def after_traffic(event: Any, context: Any) -> None:
    """Lambda entry point of AfterAllowTraffic: was it seen enough for its alarms to mean much?"""
    _hook("after", event, context, post_traffic_checks)


def pre_traffic_checks(gate: HookRun) -> None:
    """Declared, golden, refusing what it must, and compatible with what is live."""
    budget = gate.manifest.alarms.latency_ms
    if not _serves_this_artifact(gate):
        return
    golden = version_client.check_golden_rows(gate.target, gate.manifest, budget)
    gate.note(golden=golden.rows, slowest_ms=round(golden.slowest_ms, 1))
    gate.reasons.extend(golden.reasons)
    if golden.rows:
        (good,) = version_client.golden_instances(gate.target, 1)
        refusals = version_client.check_refusals(gate.target, gate.manifest, good)
        gate.note(bad=refusals.rows)
        gate.reasons.extend(refusals.reasons)
    live = _fetch_manifest(gate.live)
    if live is None:
        # a live version that cannot speak for itself must not keep its cure out
        gate.note(live="is not answering, so nothing is compared with it")
        return
    gate.note(live=live.version)
    gate.reasons.extend(_incompatible(live, gate.manifest))


def _serves_this_artifact(gate: HookRun) -> bool:
    """Whether the version answers, as the model in this image. This call is the cold one."""
    served, why = gate.target.manifest()
    if served is None:
        gate.reasons.append(why)
    elif (served.name, served.version, served.files) != (
        gate.manifest.name,
        gate.manifest.version,
        gate.manifest.files,
    ):
        gate.reasons.append(f"{served.name} {served.version} answers, or other files of it")
    return not gate.reasons


def _fetch_manifest(version: VersionClient) -> Manifest | None:
    try:
        return version.manifest()[0]
    except ArtifactError:
        return None


def _incompatible(live: Manifest, new: Manifest) -> list[str]:
    """A step back is judged as the step forward that it undoes: the way back must stay open."""
    old, new = live._replace(baseline=None), new._replace(baseline=None)
    if compatibility.semver_key(old.version) > compatibility.semver_key(new.version):
        old, new = new, old
    return compatibility.semver_violations(old, new)


def post_traffic_checks(gate: HookRun) -> None:
    """Enough requests, and the alarms have judged; too few, and the policy says what counts."""
    deployment = gate.client("codedeploy").get_deployment(deploymentId=gate.deployment)
    info = deployment["deploymentInfo"]
    since = info.get("startTime") or info["createTime"]
    minimum = int(gate.environ["MINIMUM_REQUESTS"])
    number = gate.target.arn.rpartition(":")[2]
    served = count_requests(gate.client("cloudwatch"), gate.environ["SERVICE_NAME"], number, since)
    gate.note(served=served, minimum=minimum, policy=gate.environ["LOW_TRAFFIC_POLICY"])
    if served >= minimum:
        return
    if gate.environ["LOW_TRAFFIC_POLICY"] == "fail":
        gate.reasons.append(f"it served {served} requests; {minimum} are needed to judge it")
        return
    if not _serves_this_artifact(gate):
        return
    golden = version_client.check_golden_rows(
        gate.target, gate.manifest, gate.manifest.alarms.latency_ms
    )
    gate.note(golden=golden.rows, slowest_ms=round(golden.slowest_ms, 1))
    gate.reasons.extend(golden.reasons)
    _compare_with_old(gate, versions_of_deployment(info)[0], golden.rows)


def _compare_with_old(gate: HookRun, number: str | None, rows: int) -> None:
    """The same asked of the old version: golden rows, and what clients sent it where that is kept.
    The same model must answer the same.
    """
    if not number:
        gate.note(old="the deployment does not name it")
        return
    old = gate.target.sibling(number)
    before = _fetch_manifest(old)
    if before is None:
        gate.note(old=f"{number} is not answering, so nothing is compared with it")
        return
    gate.note(old=number)
    same = before.files["model.onnx"] == gate.manifest.files["model.onnx"]
    sets = {"golden rows": list(version_client.golden_instances(gate.target, rows))}
    group = gate.environ.get("PAYLOAD_LOG_GROUP")
    if group:
        sets["captured instances"] = logged_instances(gate.client("logs"), group, number)
    for what, instances in sets.items():
        differing, largest = version_client.compare_versions(old, gate.target, instances)
        told = {"compared": len(instances), "differing": differing, "largest": largest}
        gate.facts.setdefault("replayed", {})[what] = told
        if differing and same:
            told_of = f"{differing} of {len(instances)} {what}"
            gate.reasons.append(f"the same model answers {told_of} otherwise")


def logged_instances(logs: Any, group: str, version: str) -> list[Any]:
    """The last instances that a version answered, as its records keep them."""
    start = datetime.now(UTC) - timedelta(days=LOGGED_INSTANCES_DAYS)
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=group,
        startTime=int(start.timestamp() * 1000),
        filterPattern=f'{{ ($.version = "{version}") && ($.logged_rows > 0) }}',
    )
    found: deque[Any] = deque(maxlen=MAX_LOGGED_INSTANCES)
    for _, page in zip(range(PAGES), pages, strict=False):
        for event in page["events"]:
            found.extend(orjson.loads(event["message"])["instances"])
    return list(found)


def count_requests(cloudwatch: Any, service: str, version: str, since: datetime) -> int:
    """How many requests of clients a version has served, as its own records say."""
    dimensions = {"service": service, "version": version}
    metric = {
        "Namespace": metrics.NAMESPACE,
        "MetricName": metrics.REQUESTS,
        "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
    }
    pages = cloudwatch.get_paginator("get_metric_data").paginate(
        MetricDataQueries=[
            {"Id": "requests", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}}
        ],
        StartTime=since,
        EndTime=datetime.now(UTC),
    )
    return int(sum(sum(result["Values"]) for page in pages for result in page["MetricDataResults"]))


def _hook(name: str, event: Any, context: Any, ask: Callable[[HookRun], None]) -> None:
    """Ask, and call back whatever happened."""
    start = time.monotonic()
    reasons: list[str] = []
    facts: Facts = {}
    try:
        ask(_gate(event, context, reasons, facts))
    except OutOfTimeError:
        reasons.append("the hook's own time was nearly used up")
    except Exception as error:
        # the message may hold anything; AWS's error code and the place are enough to find it
        reasons.append(f"the hook failed: {request_log.error_summary(error)}")
        facts["trace"] = request_log.stack_trace(error)
    verdict = "Failed" if reasons else "Succeeded"
    try:
        _call_back(event, verdict)
    except Exception as error:
        facts["callback"] = type(error).__name__
        raise  # an asynchronous invocation that fails is made again, twice
    finally:
        request_log.log(
            "ERROR" if reasons or "callback" in facts else "INFO",
            "release gate",
            hook=name,
            deployment=event.get("DeploymentId"),
            version=os.environ.get("VERSION_ARN", ""),
            verdict=verdict,
            reasons=reasons,
            seconds=round(time.monotonic() - start, 2),
            **facts,
        )


def _gate(event: Any, context: Any, reasons: list[str], facts: Facts) -> HookRun:
    target = VersionClient(client("lambda"), os.environ["VERSION_ARN"], deadline_check(context))
    return HookRun(
        client=client,
        environ=os.environ,
        manifest=manifests.read(settings.model_dir(settings.read())),
        deployment=event["DeploymentId"],
        target=target,
        live=target.sibling("live"),
        reasons=reasons,
        facts=facts,
    )


def deadline_check(context: Any) -> Callable[[], None]:
    """A check that raises once no other call of a version may be begun."""

    def check() -> None:
        if context.get_remaining_time_in_millis() / 1e3 < RESERVE_SECONDS:
            raise OutOfTimeError

    return check


def client(service: str) -> Any:
    """A client whose every call ends while there is still time to call back."""
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": 2 if service == "lambda" else 5}
    config = Config(connect_timeout=3, read_timeout=READ_SECONDS, retries=retries)
    return boto3.client(service, config=config)


def _call_back(event: Any, verdict: str) -> None:
    codedeploy = client("codedeploy")
    # an invocation made again finds that the first one's call back did arrive
    done = codedeploy.exceptions.LifecycleEventAlreadyCompletedException
    try:
        codedeploy.put_lifecycle_event_hook_execution_status(
            deploymentId=event["DeploymentId"],
            lifecycleEventHookExecutionId=event["LifecycleEventHookExecutionId"],
            status=verdict,
        )
    except done:
        return
