"""The deploy hooks: Lambda functions that CodeDeploy calls before and after it moves traffic.

    CodeDeploy ─ hook ─ invokes the version's own ARN ─ Succeeded | Failed ─ CodeDeploy

They run the image that is released. Every doubt is Failed: an exception, or no time left to be
sure. If no answer arrives, CodeDeploy waits for an hour and then rolls back too.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from handler import manifest as manifests
from handler import metrics, request_log, settings
from handler.errors import ArtifactError
from handler.manifest import Manifest
from handler.release import compatibility, version_client
from handler.release.rollback import versions_of_deployment
from handler.release.version_client import OutOfTimeError, VersionClient

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# for the running call (its read timeout, twice) and for the answer to CodeDeploy
RESERVE_SECONDS = 75.0
READ_SECONDS = 30.0
# instances from the log that are replayed, and where the search for them ends
MAX_LOGGED_INSTANCES, LOGGED_INSTANCES_DAYS, MAX_PAGES = 50, 7, 20
# what CodeDeploy enters as the creator of its own rollback
ROLLBACK_CREATOR = "codeDeployRollback"
Client = Callable[[str], Any]
Facts = dict[str, Any]


class HookRun(NamedTuple):
    """One run of a hook. `target` is the version that is released, `live` is the alias.

    `deployment` is CodeDeploy's description. With `reasons` it fails; `facts` are for the log.
    """

    client: Client
    environ: Mapping[str, str]
    manifest: Manifest
    deployment: Mapping[str, Any]
    target: VersionClient
    live: VersionClient
    reasons: list[str]
    facts: Facts

    def note(self, **facts: Any) -> None:
        """Add facts to the log."""
        self.facts.update(facts)

    def check_golden_rows(self) -> int:
        """Check the version's golden rows. Return their number."""
        budget = self.manifest.alarms.latency_ms
        golden = version_client.check_golden_rows(self.target, self.manifest, budget)
        self.note(golden=golden.rows, slowest_ms=round(golden.slowest_ms, 1))
        self.reasons.extend(golden.reasons)
        return golden.rows


def before_traffic(event: Any, context: "LambdaContext") -> None:
    """Handle BeforeAllowTraffic: check the version's answers and its contract."""
    _hook("before", event, context, pre_traffic_checks)


def after_traffic(event: Any, context: "LambdaContext") -> None:
    """Handle AfterAllowTraffic: check that it had enough traffic for its alarms to judge it."""
    _hook("after", event, context, post_traffic_checks)


def pre_traffic_checks(run: HookRun) -> None:
    """Check artifact, golden rows, refusals, worker, and compatibility with the live version."""
    if not _serves_this_artifact(run):
        return
    if run.check_golden_rows():
        (good,) = version_client.golden_instances(run.target, 1)
        refusals = version_client.check_refusals(run.target, run.manifest, good)
        run.note(bad=refusals.rows)
        run.reasons.extend(refusals.reasons)
    # the worker gets jobs after the API's last step, and its results are final
    worker = run.environ.get("WORKER_VERSION_ARN")
    if worker and not run.target.other(worker).starts():
        run.reasons.append("the jobs' worker does not start")
    live = _fetch_manifest(run.live)
    if live is None:
        # a broken live version must not block its fix
        run.note(live="is not answering, so nothing is compared with it")
        return
    run.note(live=live.version)
    run.reasons.extend(_incompatible(live, run.manifest))


def _serves_this_artifact(run: HookRun) -> bool:
    """Return whether the version serves this image's model. Its first call is the cold one."""
    stated = run.environ.get("MODEL_SHA256", "")
    if stated and stated != run.manifest.files["model.onnx"].sha256:
        run.reasons.append("the image has another model than the manifest of the template")
        return False
    packed = run.manifest
    served, reason = run.target.manifest()
    if served is None:
        run.reasons.append(reason)
    elif (served.name, served.version, served.files) != (packed.name, packed.version, packed.files):
        run.reasons.append(f"{served.name} {served.version} answers, or other files of it")
    return not run.reasons


def _fetch_manifest(version: VersionClient) -> Manifest | None:
    try:
        return version.manifest()[0]
    except ArtifactError:
        return None


def _incompatible(live: Manifest, new: Manifest) -> list[str]:
    """Return violations of the version rule. A lower version is judged as the upgrade it undoes."""
    old, new = live._replace(baseline=None), new._replace(baseline=None)
    if compatibility.semver_key(old.version) > compatibility.semver_key(new.version):
        old, new = new, old
    return compatibility.semver_violations(old, new)


def post_traffic_checks(run: HookRun) -> None:
    """Check that it served enough requests; with too few, `low_traffic_policy` decides."""
    info = run.deployment
    since = info.get("startTime") or info["createTime"]
    minimum = int(run.environ["MINIMUM_REQUESTS"])
    number = run.target.arn.rpartition(":")[2]
    served = count_requests(run.client("cloudwatch"), run.environ["SERVICE_NAME"], number, since)
    run.note(served=served, minimum=minimum, policy=run.environ["LOW_TRAFFIC_POLICY"])
    if served >= minimum:
        return
    if run.environ["LOW_TRAFFIC_POLICY"] == "fail":
        run.reasons.append(f"it served {served} requests; {minimum} are needed to judge it")
        return
    if _serves_this_artifact(run):
        _compare_with_old(run, versions_of_deployment(info)[0], run.check_golden_rows())


def _compare_with_old(run: HookRun, number: str | None, rows: int) -> None:
    """Ask the old version the same; the same model must give the same answers."""
    if not number:
        run.note(old="the deployment does not name it")
        return
    old = run.target.sibling(number)
    old_manifest = _fetch_manifest(old)
    if old_manifest is None:
        run.note(old=f"{number} is not answering, so nothing is compared with it")
        return
    run.note(old=number)
    same = old_manifest.files["model.onnx"] == run.manifest.files["model.onnx"]
    sets = {"golden rows": list(version_client.golden_instances(run.target, rows))}
    if group := run.environ.get("PAYLOAD_LOG_GROUP"):
        sets["logged instances"] = logged_instances(run.client("logs"), group, number)
    for name, instances in sets.items():
        differing, largest = version_client.compare_versions(old, run.target, instances)
        counts = {"compared": len(instances), "differing": differing, "largest": largest}
        run.facts.setdefault("replayed", {})[name] = counts
        if differing and same:
            count = f"{differing} of {len(instances)} {name}"
            run.reasons.append(f"the same model answers {count} otherwise")


def logged_instances(logs: Any, group: str, version: str) -> list[Any]:
    """Return the last instances that a version answered, from its records with payload."""
    start = datetime.now(UTC) - timedelta(days=LOGGED_INSTANCES_DAYS)
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=group,
        startTime=int(start.timestamp() * 1000),
        filterPattern=f'{{ ($.version = "{version}") && ($.logged_rows > 0) }}',
    )
    instances: deque[Any] = deque(maxlen=MAX_LOGGED_INSTANCES)
    for _, page in zip(range(MAX_PAGES), pages, strict=False):
        for event in page["events"]:
            instances.extend(orjson.loads(event["message"])["instances"])
    return list(instances)


def count_requests(cloudwatch: Any, service: str, version: str, since: datetime) -> int:
    """Return how many requests of clients a version has served, from its metrics."""
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


def _hook(
    name: str, event: Any, context: "LambdaContext", check: Callable[[HookRun], None]
) -> None:
    """Run the checks, and answer CodeDeploy whatever happened."""
    start = time.monotonic()
    fields = event if isinstance(event, dict) else {}
    reasons: list[str] = []
    facts: Facts = {}
    try:
        target = VersionClient(client("lambda"), os.environ["VERSION_ARN"], deadline_check(context))
        described = client("codedeploy").get_deployment(deploymentId=fields["DeploymentId"])
        run = HookRun(
            client=client,
            environ=os.environ,
            manifest=manifests.read(settings.model_dir(settings.read())),
            deployment=described["deploymentInfo"],
            target=target,
            live=target.sibling("live"),
            reasons=reasons,
            facts=facts,
        )
        # CodeDeploy's own rollback must not fail because the failed version does
        if run.deployment.get("creator") == ROLLBACK_CREATOR:
            run.note(rollback=True)
        else:
            check(run)
    except OutOfTimeError:
        reasons.append("the hook's own time was nearly used up")
    except Exception as error:
        # an error's message may quote a client; AWS's error code and the location may not
        reasons.append(f"the hook failed: {request_log.error_summary(error)}")
        facts["trace"] = request_log.stack_trace(error)
    verdict = "Failed" if reasons else "Succeeded"
    try:
        if fields.get("DeploymentId"):  # there is nobody to answer otherwise
            _answer_codedeploy(fields, verdict)
    except Exception as error:
        facts["callback"] = type(error).__name__
        raise  # Lambda repeats an asynchronous invocation that failed, twice
    finally:
        request_log.log(
            "ERROR" if reasons or "callback" in facts else "INFO",
            "deploy hook",
            hook=name,
            deployment=fields.get("DeploymentId"),
            version=os.environ.get("VERSION_ARN", ""),
            verdict=verdict,
            reasons=reasons,
            seconds=round(time.monotonic() - start, 2),
            **facts,
        )


def deadline_check(context: "LambdaContext") -> Callable[[], None]:
    """Return a function that raises once there is no time for another call of a version."""

    def check() -> None:
        if context.get_remaining_time_in_millis() / 1e3 < RESERVE_SECONDS:
            raise OutOfTimeError

    return check


def client(service: str) -> Any:
    """Return an AWS client whose calls end while there is still time to answer CodeDeploy."""
    import boto3
    from botocore.config import Config

    connect: Any = boto3.client
    retries: Any = {"mode": "standard", "total_max_attempts": 2 if service == "lambda" else 5}
    config = Config(connect_timeout=3, read_timeout=READ_SECONDS, retries=retries)
    return connect(service, config=config)


def _answer_codedeploy(event: Mapping[str, Any], verdict: str) -> None:
    codedeploy = client("codedeploy")
    try:
        codedeploy.put_lifecycle_event_hook_execution_status(
            deploymentId=event["DeploymentId"],
            lifecycleEventHookExecutionId=event["LifecycleEventHookExecutionId"],
            status=verdict,
        )
    except codedeploy.exceptions.LifecycleEventAlreadyCompletedException:
        return  # an earlier invocation's answer has arrived
