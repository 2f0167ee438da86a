"""CloudWatch alarms: those that notify people, and the canary's, which make CodeDeploy roll back.

Most alarms compare a *count* with what its objective allows; breaching is

    errors - the larger of (allowance x requests, at_least) > 0

A rate alone has no good threshold: one error in three requests is 33 %. The count forgives a few
errors and grows with traffic, so it works at ten requests a day and at a hundred a second.
A period without requests has no errors, so missing data is not breaching.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import aws_cdk as cdk
from aws_cdk import aws_chatbot as chatbot
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from handler import metrics
from handler.manifest import Manifest
from infra.encryption import key
from infra.endpoint import EndpointMetrics
from infra.function import ALIAS, ModelFunction
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

# A month's error budget spent in two days pages somebody; spent in five days it makes a ticket.
FAST_BURN, SLOW_BURN = 14.4, 6.0
SLACK_POLICY = "CloudWatchReadOnlyAccess"
# server errors of a new version, and times the old version's share, that are no reason to roll back
CANARY_ERRORS, OLD_FACTOR = 3, 3
RUNBOOK = "docs/runbook.md"
DAY_MINUTES = 1440
MIN_OUTCOMES = 10  # of a day, below which their mean says nothing
Missing = cloudwatch.TreatMissingData


class Policy(NamedTuple):
    """The notification of an alarm, and the state of a period without data.

    `severity`: "page", "ticket", or "" where no topic is notified.
    """

    severity: str
    missing: Missing
    reason: str


_NO_REQUEST = "Without requests there are no errors."
_NO_DRIFT = "The monitor writes a value only if something has drifted."
_NO_JOB = "SQS writes no value for an idle queue."
# every alarm of a stack; docs/reference/account.md shows this table
POLICIES = {
    "availability": Policy("page", Missing.NOT_BREACHING, _NO_REQUEST),
    "availability-slow": Policy("ticket", Missing.NOT_BREACHING, _NO_REQUEST),
    "client-errors": Policy("ticket", Missing.NOT_BREACHING, _NO_REQUEST),
    "latency": Policy("ticket", Missing.IGNORE, "With little traffic, most minutes have no value."),
    "throttles": Policy("page", Missing.NOT_BREACHING, "Without calls none is refused."),
    "canary-crashes": Policy("", Missing.NOT_BREACHING, _NO_REQUEST),
    "canary-server-errors": Policy("", Missing.NOT_BREACHING, _NO_REQUEST),
    "canary-client-errors": Policy("", Missing.NOT_BREACHING, _NO_REQUEST),
    "canary-latency": Policy("", Missing.NOT_BREACHING, "Without requests there is no latency."),
    "rollback-unavailable": Policy("ticket", Missing.MISSING, "The probe writes twice a day."),
    "alias-moved": Policy("ticket", Missing.IGNORE, "The state lasts until the next probe."),
    "impact": Policy("ticket", Missing.NOT_BREACHING, "`no-outcomes` covers their absence."),
    "no-outcomes": Policy("ticket", Missing.MISSING, "A new stack has no outcomes yet."),
    "drift-outputs": Policy("", Missing.NOT_BREACHING, _NO_DRIFT),
    "drift-inputs": Policy("", Missing.NOT_BREACHING, _NO_DRIFT),
    "drift-unseen": Policy("", Missing.NOT_BREACHING, _NO_DRIFT),
    "drift-silent": Policy("ticket", Missing.MISSING, "The monitor runs every hour."),
    "dead-letters": Policy("ticket", Missing.NOT_BREACHING, _NO_JOB),
    "queue-age": Policy("page", Missing.NOT_BREACHING, _NO_JOB),
    "failed-results": Policy("ticket", Missing.NOT_BREACHING, "Without jobs none fails."),
    "batch-failed": Policy("ticket", Missing.NOT_BREACHING, "Without runs none fails."),
    "archive-delivery": Policy("ticket", Missing.NOT_BREACHING, "Without records none waits."),
}


class MonitoringContext(NamedTuple):
    """The subject of the alarms and the dashboard of one stack, and the topics to notify."""

    settings: Settings
    manifest: Manifest
    scoring: ModelFunction
    page: sns.ITopic
    ticket: sns.ITopic
    endpoint: EndpointMetrics

    def gateway(self, name: str, statistic: str = "Sum", minutes: int = 5) -> cloudwatch.Metric:
        """Return a metric of the endpoint: what clients see, errors of the gateway included."""
        namespace, dimensions, names = self.endpoint
        return _metric(namespace, names.get(name, name), dimensions, statistic, minutes)

    def function(
        self, name: str, *, version: str | None = None, statistic: str = "Sum", minutes: int = 5
    ) -> cloudwatch.Metric:
        """Return a Lambda metric of the alias, or of one version behind it.

        CDK's Alias.metric() mixes the versions, and its Version.metric() has a dimension that
        Lambda does not write.
        """
        function = self.scoring.function.function_name
        dimensions = {"FunctionName": function, "Resource": f"{function}:{ALIAS}"}
        if version:
            dimensions["ExecutedVersion"] = version
        return _metric("AWS/Lambda", name, dimensions, statistic, minutes)

    def record(
        self,
        name: str,
        statistic: str = "Sum",
        minutes: int = 1,
        dimensions: dict[str, str] | None = None,
    ) -> cloudwatch.Metric:
        """Return a metric of the records, by default of the version that the stack makes live."""
        default = self.scoring.dimensions
        return _metric(metrics.NAMESPACE, name, dimensions or default, statistic, minutes)

    def description(self, text: str, section: str) -> str:
        """Return an alarm's description: what happens, the owner, the runbook's section."""
        runbook = f"{self.manifest.runbook or RUNBOOK}#{section}"
        return f"{text}\nOwner: {self.manifest.owner}\nRunbook: {runbook}"

    def alarm(
        self,
        scope: Construct,
        name: str,
        text: str,
        metric: cloudwatch.IMetric,
        *,
        version: str = "",
        threshold: float = 0,
        periods: int = 1,
        breaching: int | None = None,
    ) -> cloudwatch.Alarm:
        """Return an alarm above `threshold` that notifies as POLICIES says, and when it is over.

        `version` ends the name of a canary's alarm. With Missing.MISSING, data that stops coming
        notifies too. A new alarm does not: it begins without data.
        """
        policy = POLICIES[name]
        alarm = cloudwatch.Alarm(
            scope,
            name,
            alarm_name=f"{self.settings.alarm_prefix}{name}{version and f'-v{version}'}",
            alarm_description=self.description(text, name),
            metric=metric,
            threshold=threshold,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            evaluation_periods=periods,
            datapoints_to_alarm=breaching,
            treat_missing_data=policy.missing,
        )
        if policy.severity:
            notify = actions.SnsAction(self.page if policy.severity == "page" else self.ticket)
            alarm.add_alarm_action(notify)
            alarm.add_ok_action(notify)
            if policy.missing == Missing.MISSING:
                alarm.add_insufficient_data_action(notify)
        return alarm


def _metric(
    namespace: str, name: str, dimensions: dict[str, str], statistic: str, minutes: int
) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace=namespace,
        metric_name=name,
        dimensions_map=dimensions,
        statistic=statistic,
        period=cdk.Duration.minutes(minutes),
    )


def excess(
    metric: Callable[[str], cloudwatch.Metric],
    bad: str,
    requests: str,
    allowance: float,
    at_least: int = 0,
    of_all_versions: Callable[[str], cloudwatch.Metric] | None = None,
) -> cloudwatch.MathExpression:
    """Return the count of `bad` over the larger of `allowance` x requests and `at_least`.

    `metric` returns the metric of a name. `of_all_versions`: that of the old version too. Then
    OLD_FACTOR times what the old version's share predicts is allowed as well.
    """
    allowed = f"requests * {allowance:.6g}"
    expression = f"bad - IF({allowed} > {at_least}, {allowed}, {at_least})"
    counted = metric(bad)
    using = {"bad": counted, "requests": metric(requests)}
    if of_all_versions:
        using |= {"all_bad": of_all_versions(bad), "all_requests": of_all_versions(requests)}
        old_requests = "IF(all_requests > requests, all_requests - requests, 1)"
        expression += f" - {OLD_FACTOR} * (all_bad - bad) * requests / {old_requests}"
    return cloudwatch.MathExpression(
        expression=expression,
        using_metrics=using,
        period=counted.period,
        label=f"{counted.metric_name} over what is allowed",
    )


def topic(scope: Construct, id: str, settings: Settings, destination: str) -> sns.ITopic:
    """Return the SNS topic that `destination` names, or a new one that it subscribes to."""
    if destination.startswith("arn:"):
        return sns.Topic.from_topic_arn(scope, id, destination)
    new = sns.Topic(
        scope, id, display_name=settings.service, enforce_ssl=True, master_key=key(scope, settings)
    )
    # With a policy of its own a topic loses the default one, which lets the account's alarms in.
    new.add_to_resource_policy(
        iam.PolicyStatement(
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
            actions=["sns:Publish"],
            resources=[new.topic_arn],
            conditions={"StringEquals": {"aws:SourceAccount": cdk.Aws.ACCOUNT_ID}},
        )
    )
    if destination.startswith("slack:"):
        workspace, channel = destination.removeprefix("slack:").split("/")
        chatbot.SlackChannelConfiguration(
            new,
            "Slack",
            # one name space for all regions of an account
            slack_channel_configuration_name=f"{settings.service}-{id}-{cdk.Aws.REGION}",
            slack_workspace_id=workspace,
            slack_channel_id=channel,
            notification_topics=[new],
            # what people in the channel may do; the default is everything
            guardrail_policies=[iam.ManagedPolicy.from_aws_managed_policy_name(SLACK_POLICY)],
        )
    elif destination.startswith("https:"):
        new.add_subscription(subscriptions.UrlSubscription(destination))
    elif destination:
        new.add_subscription(subscriptions.EmailSubscription(destination))
    if destination:
        reason = "Nobody would read a dead-letter queue of alarms; the dashboard shows them too."
        suppress_nag(new, {"Serverless-SNSRedrivePolicy": reason})
    return new


class ServiceAlarms(Construct):
    """The alarms about the responses to clients, of all versions together."""

    def __init__(self, scope: Construct, id: str, context: MonitoringContext) -> None:
        super().__init__(scope, id)
        limits = context.manifest.alarms
        budget, refused = 1 - limits.availability / 100, limits.client_error_max_percent / 100
        slow, hourly = partial(context.gateway, minutes=360), partial(context.record, minutes=60)
        self.alarms = [
            context.alarm(
                self,
                "availability",
                "Clients get 5xx: handled, crashed, timed out, or the gateway's own.",
                excess(context.gateway, "5XXError", "Count", FAST_BURN * budget, 1),
            ),
            context.alarm(
                self,
                "availability-slow",
                # for little traffic, of which five minutes never have enough
                "Clients keep getting 5xx, over six hours.",
                excess(slow, "5XXError", "Count", SLOW_BURN * budget, 1),
            ),
            context.alarm(
                self,
                "client-errors",
                f"Over {limits.client_error_max_percent:g} % of an hour's requests are refused: "
                "clients and contract do not agree.",
                # the function's own count: the gateway's 4XX has every scanner without credentials
                excess(hourly, metrics.CLIENT_ERRORS, metrics.REQUESTS, refused, 20),
            ),
            context.alarm(
                self,
                "latency",
                f"The slowest 1 % of responses take over {limits.latency_ms:g} ms.",
                context.gateway("Latency", "p99"),
                threshold=limits.latency_ms,
                # With little traffic the p99 is the slowest request, often a cold start. So it must
                # be three of the last six, and periods without requests count as neither.
                periods=6,
                breaching=3,
            ),
            context.alarm(
                self,
                "throttles",
                "Lambda refuses calls: the account's or the function's concurrency is used up.",
                context.function("Throttles"),
            ),
        ]


class CanaryAlarms(Construct):
    """The alarms that roll a new version back.

    A caller who knows a request that fails could roll back any release. Such a request fails in
    both versions, and Lambda sends each call to a random one. So errors count only beyond
    OLD_FACTOR times the old version's share, and beyond CANARY_ERRORS. They are summed over the
    whole bake: with a tenth of the traffic, the chance of an alarm is under 0.5 % however many
    requests fail in both versions, even if the alarm is evaluated after each. With CANARY_ERRORS of
    2 it is 2 %, of 1 it is 9 %, of 0 it is 33 %. The price: of 30 requests to a new version that
    fails for a tenth, four fail with a chance of 35 %; of 60 with 86 %, of 180 with 100 %.
    In the last steps of a linear rollout the old version has too few requests to compare with. No
    input is known to crash a version, so crashes are not compared.

    The version's number is part of each name, so a new version gets new alarms. An alarm that
    stayed would still be in ALARM from the failed version when the fix is deployed, and CodeDeploy
    would stop the fix.
    """

    def __init__(self, scope: Construct, id: str, context: MonitoringContext) -> None:
        super().__init__(scope, id)
        limits = context.manifest.alarms
        allowance = FAST_BURN * (1 - limits.availability / 100)
        version = context.scoring.version.version
        # CodeDeploy reads the state now and then: one bad minute must stay visible during the
        # whole bake. One rollback too many costs less than one too few.
        bake = min(context.settings.bake_minutes, 60)

        def alarm(
            name: str, text: str, metric: cloudwatch.IMetric, **more: Any
        ) -> cloudwatch.Alarm:
            options = {"periods": bake, "breaching": 1, **more}
            return context.alarm(self, f"canary-{name}", text, metric, version=version, **options)

        def more_than_old(name: str, share: float, at_least: int) -> cloudwatch.MathExpression:
            new = partial(context.record, minutes=bake)
            both = partial(new, dimensions={"service": context.settings.service})
            return excess(new, name, metrics.REQUESTS, share, at_least, both)

        calls = partial(context.function, version=version, minutes=1)
        # Crashes and server errors are two alarms, not one sum: metric math has no value where one
        # of its metrics has none, and a version that fails at init never writes a record.
        self.alarms = [
            alarm(
                "crashes",
                "The new version crashes, times out or runs out of memory.",
                excess(calls, "Errors", "Invocations", allowance),
            ),
            alarm(
                "server-errors",
                "The new version answers with 5xx, which are no errors to Lambda.",
                more_than_old(metrics.SERVER_ERRORS, allowance, CANARY_ERRORS),
                periods=1,
            ),
            alarm(
                "client-errors",
                "The new version refuses what clients send.",
                more_than_old(metrics.CLIENT_ERRORS, limits.client_error_max_percent / 100, 5),
                periods=1,
            ),
            alarm(
                "latency",
                f"The new version takes over {limits.latency_ms:g} ms.",
                context.record(metrics.LATENCY, "p99"),
                threshold=limits.latency_ms,
                breaching=2,  # a minute's p99 may be one request
            ),
        ]


class OutcomeAlarms(Construct):
    """The alarms of outcomes, as far as the manifest states limits for them.

    `impact` may roll a version back (infra/rollback.py), so it is about one release: the live
    versions of the API and of the `workers` of jobs and batches.
    """

    def __init__(
        self, scope: Construct, id: str, context: MonitoringContext, workers: list[ModelFunction]
    ) -> None:
        super().__init__(scope, id)
        limits, value = context.manifest.alarms, context.manifest.outcome_value
        self.alarms: list[cloudwatch.Alarm] = []
        self.impact: list[cloudwatch.Alarm] = []
        if limits.min_daily_impact is not None and value:
            minimum = limits.min_daily_impact
            amount = f"{minimum:g} {value.unit}".strip()
            using = {
                f"{name}{i}": context.record(
                    metrics.IMPACT, statistic, DAY_MINUTES, function.dimensions
                )
                for name, statistic in (("impact", "Sum"), ("outcomes", "SampleCount"))
                for i, function in enumerate([context.scoring, *workers])
            }
            # a sum of a list needs no value of each metric
            total, count = (
                f"SUM([{', '.join(id for id in using if id.startswith(name))}])"
                for name in ("impact", "outcomes")
            )
            impact = context.alarm(
                self,
                "impact",
                f"The mean outcome value of a day is under {amount}.",
                cloudwatch.MathExpression(
                    expression=f"IF({count} < {MIN_OUTCOMES}, 0, {minimum:g} - {total} / {count})",
                    using_metrics=using,
                    period=cdk.Duration.days(1),
                    label="Impact under its limit",
                ),
            )
            self.impact.append(impact)
            self.alarms.append(impact)
        if limits.max_days_without_outcomes:
            # of all versions: outcomes are filed under the version that predicted, maybe long ago
            service = {"service": context.settings.service}
            outcomes = context.record(metrics.OUTCOMES, "Sum", DAY_MINUTES, service)
            silence = context.alarm(
                self,
                "no-outcomes",
                f"There was no outcome for {limits.max_days_without_outcomes} days.",
                cloudwatch.MathExpression(
                    expression="1 - outcomes",
                    using_metrics={"outcomes": outcomes},
                    period=outcomes.period,
                    label="Days without outcomes",
                ),
                periods=limits.max_days_without_outcomes,
            )
            self.alarms.append(silence)
