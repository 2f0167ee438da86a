"""When a person is called, and when a new version goes back by itself.

Most alarms compare a *count* with what its objective allows; breaching is

    faults - the larger of (allowance x requests, a few) > 0

A rate alone has no good threshold: one fault in three requests is 33 %. The count forgives a few
and grows with traffic, so it is neither nervous at ten requests a day nor blind at a hundred a
second. A period without requests has no faults, so missing data is not a breach.
"""

from typing import NamedTuple

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from handler import metrics
from handler.manifest import Manifest
from infra.function import ALIAS, ModelFunction
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

# A month's error budget gone in two days is worth waking up for; gone in five, worth a morning.
FAST_BURN, SLOW_BURN = 14.4, 6.0
RUNBOOK = "docs/runbook.md"
DAY_MINUTES = 1440
MIN_OUTCOMES = 10  # of a day, below which their mean says nothing
NOT_BREACHING = cloudwatch.TreatMissingData.NOT_BREACHING


class MonitoringContext(NamedTuple):
    """What the alarms and the dashboard of one stack look at."""

    settings: Settings
    manifest: Manifest
    scoring: ModelFunction
    stage: apigateway.Stage
    api_name: str

    def gateway(self, name: str, statistic: str = "Sum", minutes: int = 5) -> cloudwatch.Metric:
        """A metric of the API's stage: what callers saw, whoever answered. Handled 5xx count."""
        return cloudwatch.Metric(
            namespace="AWS/ApiGateway",
            metric_name=name,
            dimensions_map={"ApiName": self.api_name, "Stage": self.settings.stage},
            statistic=statistic,
            period=cdk.Duration.minutes(minutes),
        )

    def function(
        self, name: str, *, version: str | None = None, statistic: str = "Sum", minutes: int = 5
    ) -> cloudwatch.Metric:
        """A Lambda metric of the alias, or of one version behind it.

        By hand: CDK's Alias.metric() mixes the versions, and its Version.metric() has a dimension
        that Lambda does not write.
        """
        function = self.scoring.function.function_name
        dimensions = {"FunctionName": function, "Resource": f"{function}:{ALIAS}"}
        if version:
            dimensions["ExecutedVersion"] = version
        return cloudwatch.Metric(
            namespace="AWS/Lambda",
            metric_name=name,
            dimensions_map=dimensions,
            statistic=statistic,
            period=cdk.Duration.minutes(minutes),
        )

    def record(self, name: str, statistic: str = "Sum", minutes: int = 1) -> cloudwatch.Metric:
        """A metric from the function's own records, of the version that this stack makes live."""
        return cloudwatch.Metric(
            namespace=metrics.NAMESPACE,
            metric_name=name,
            dimensions_map={
                "service": self.settings.service,
                "version": self.scoring.alias.version.version,
            },
            statistic=statistic,
            period=cdk.Duration.minutes(minutes),
        )


def topic(scope: Construct, settings: Settings) -> sns.ITopic:
    """Where alarms go: the topic that is named, or one of ours with the address as subscriber."""
    target = settings.alarm_destination
    if target.startswith("arn:"):
        return sns.Topic.from_topic_arn(scope, "Topic", target)
    own = sns.Topic(scope, "Topic", display_name=settings.service, enforce_ssl=True)
    # With a policy of its own a topic loses the default one, which lets the account's alarms in.
    own.add_to_resource_policy(
        iam.PolicyStatement(
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
            actions=["sns:Publish"],
            resources=[own.topic_arn],
            conditions={"StringEquals": {"aws:SourceAccount": cdk.Aws.ACCOUNT_ID}},
        )
    )
    if target.startswith("https:"):
        own.add_subscription(subscriptions.UrlSubscription(target))
    elif target:
        own.add_subscription(subscriptions.EmailSubscription(target))
    if target:
        suppress_nag(
            own,
            {
                "Serverless-SNSRedrivePolicy": (
                    "Nobody would read a dead-letter queue of alarms; the dashboard shows them too."
                ),
            },
        )
    return own


class ServiceAlarms(Construct):
    """What callers of this stage live through, whichever version answers them."""

    def __init__(
        self, scope: Construct, id: str, watched: MonitoringContext, notify: sns.ITopic
    ) -> None:
        super().__init__(scope, id)
        wanted = watched.manifest.alarms
        budget = 1 - wanted.availability / 100
        self.alarms = [
            alarm(
                self,
                watched,
                "availability",
                "Callers get 5xx: handled, crashed, timed out, or the gateway's own.",
                _excess_expression(
                    watched.gateway("5XXError"), watched.gateway("Count"), FAST_BURN * budget, few=1
                ),
            ),
            alarm(
                self,
                watched,
                "availability-slow",
                # for a trickle of traffic, which five minutes never hold enough of to judge
                "Callers keep getting 5xx, seen over six hours.",
                _excess_expression(
                    watched.gateway("5XXError", minutes=360),
                    watched.gateway("Count", minutes=360),
                    SLOW_BURN * budget,
                    few=1,
                ),
            ),
            alarm(
                self,
                watched,
                "rejects",
                f"Over {wanted.client_error_max_percent:g} % of an hour's requests are refused: "
                "callers and contract no longer agree.",
                _excess_expression(
                    watched.gateway("4XXError", minutes=60),
                    watched.gateway("Count", minutes=60),
                    wanted.client_error_max_percent / 100,
                    few=20,
                ),
            ),
            alarm(
                self,
                watched,
                "latency",
                f"The slowest 1 % of answers take over {wanted.latency_ms:g} ms.",
                watched.gateway("Latency", "p99"),
                threshold=wanted.latency_ms,
                # The p99 of a handful is the slowest of them, often a cold start, so it must be
                # three of the last six; the gaps in a trickle of traffic count as neither.
                periods=6,
                breaching=3,
                missing=cloudwatch.TreatMissingData.IGNORE,
            ),
            alarm(
                self,
                watched,
                "throttles",
                "Lambda refuses calls: the account's or the function's concurrency is used up.",
                watched.function("Throttles"),
            ),
        ]
        for each in self.alarms:
            notify_on(each, notify)


class CanaryAlarms(Construct):
    """What takes a new version back: its own metrics alone, not those of the one it replaces.

    The version's number is part of each alarm's name, so a new version gets new alarms. An alarm
    that lived on would still be in ALARM from the version before when the fix is deployed, and
    CodeDeploy would stop the fix.
    """

    def __init__(self, scope: Construct, id: str, watched: MonitoringContext) -> None:
        super().__init__(scope, id)
        wanted = watched.manifest.alarms
        allowance = FAST_BURN * (1 - wanted.availability / 100)
        version = watched.scoring.version.version
        prefix = f"v{version}-"
        # CodeDeploy looks at the state now and then: one bad minute must stay visible for as
        # long as the bake, and a rollback too many costs less than one too few.
        bake = min(watched.settings.bake_minutes, 60)
        # Crashes and faults are two alarms, not one sum: metric math has no value where one of
        # its metrics has none, and a version that dies at init never writes a record.
        self.alarms = [
            alarm(
                self,
                watched,
                f"{prefix}crashes",
                "The new version crashes, times out or runs out of memory.",
                _excess_expression(
                    watched.function("Errors", version=version, minutes=1),
                    watched.function("Invocations", version=version, minutes=1),
                    allowance,
                ),
                id="crashes",
                periods=bake,
                breaching=1,
            ),
            alarm(
                self,
                watched,
                f"{prefix}faults",
                "The new version answers with 5xx. Handled ones are no Lambda errors.",
                _excess_expression(
                    watched.record(metrics.SERVER_ERRORS),
                    watched.record(metrics.REQUESTS),
                    allowance,
                ),
                id="faults",
                periods=bake,
                breaching=1,
            ),
            alarm(
                self,
                watched,
                f"{prefix}rejects",
                "The new version refuses what callers send.",
                _excess_expression(
                    watched.record(metrics.CLIENT_ERRORS, minutes=2),
                    watched.record(metrics.REQUESTS, minutes=2),
                    wanted.client_error_max_percent / 100,
                    few=5,  # one caller's typing error is no reason to go back
                ),
                id="rejects",
                periods=max(1, bake // 2),
                breaching=1,
            ),
            alarm(
                self,
                watched,
                f"{prefix}latency",
                f"The new version takes over {wanted.latency_ms:g} ms.",
                watched.record(metrics.LATENCY, "p99"),
                threshold=wanted.latency_ms,
                id="latency",
                periods=bake,
                breaching=2,  # a minute's p99 may be one request: twice is no accident
            ),
        ]


class OutcomeAlarms(Construct):
    """The alarms of outcomes, as far as the manifest states any.

    `impact` may roll a version back (infra/rollback.py), so it is about one version.
    """

    def __init__(
        self, scope: Construct, id: str, watched: MonitoringContext, notify: sns.ITopic
    ) -> None:
        super().__init__(scope, id)
        limits, value = watched.manifest.alarms, watched.manifest.outcome_value
        self.alarms: list[cloudwatch.Alarm] = []
        self.impact: list[cloudwatch.Alarm] = []
        if limits.min_daily_impact is not None and value:
            minimum = limits.min_daily_impact
            mean = watched.record(metrics.IMPACT, "Average", DAY_MINUTES)
            count = watched.record(metrics.IMPACT, "SampleCount", DAY_MINUTES)
            impact = alarm(
                self,
                watched,
                "impact",
                f"The mean outcome value of a day is under {minimum:g} {value.unit}".rstrip() + ".",
                cloudwatch.MathExpression(
                    expression=f"IF(outcomes < {MIN_OUTCOMES}, {minimum:g}, impact)",
                    using_metrics={"impact": mean, "outcomes": count},
                    period=mean.period,
                    label="Impact",
                ),
                threshold=minimum,
                below=True,
                notify=notify,
            )
            self.impact.append(impact)
        if limits.max_days_without_outcomes:
            # of all versions: outcomes are filed under the version that predicted, maybe long ago
            outcomes = cloudwatch.Metric(
                namespace=metrics.NAMESPACE,
                metric_name=metrics.OUTCOMES,
                dimensions_map={"service": watched.settings.service},
                statistic="Sum",
                period=cdk.Duration.minutes(DAY_MINUTES),
            )
            self.alarms.append(
                alarm(
                    self,
                    watched,
                    "no-outcomes",
                    f"There was no outcome for {limits.max_days_without_outcomes} days.",
                    outcomes,
                    threshold=1,
                    periods=limits.max_days_without_outcomes,
                    missing=cloudwatch.TreatMissingData.BREACHING,
                    below=True,
                    notify=notify,
                )
            )
        self.alarms += self.impact


def _excess_expression(
    bad: cloudwatch.Metric, requests: cloudwatch.Metric, allowance: float, few: int = 0
) -> cloudwatch.MathExpression:
    """How many more there are than the larger of `allowance` x requests and `few`."""
    allowed = f"requests * {allowance:.6g}"
    return cloudwatch.MathExpression(
        expression=f"bad - IF({allowed} > {few}, {allowed}, {few})",
        using_metrics={"bad": bad, "requests": requests},
        period=bad.period,
        label=f"{bad.metric_name} over what is allowed",
    )


def alarm_description(manifest: Manifest, what: str, section: str) -> str:
    """What happens, whose it is and what to do: a section of the runbook."""
    runbook = f"{manifest.runbook or RUNBOOK}#{section}"
    return f"{what}\nOwner: {manifest.owner}\nRunbook: {runbook}"


def notify_on(alarm: cloudwatch.Alarm, notify: sns.ITopic) -> None:
    """Tell people, and tell them again when it is over."""
    alarm.add_alarm_action(actions.SnsAction(notify))
    alarm.add_ok_action(actions.SnsAction(notify))


def alarm(
    scope: Construct,
    watched: MonitoringContext,
    name: str,
    what: str,
    metric: cloudwatch.IMetric,
    *,
    id: str | None = None,
    threshold: float = 0,
    periods: int = 1,
    breaching: int | None = None,
    missing: cloudwatch.TreatMissingData = NOT_BREACHING,
    below: bool = False,
    notify: sns.ITopic | None = None,
) -> cloudwatch.Alarm:
    """An alarm that says what happens, whose it is and where the runbook lies. One with an `id` of
    its own is a canary's: its name has a version in it, and its section has not.
    """
    section = f"canary-{id}" if id else name
    made = cloudwatch.Alarm(
        scope,
        id or name,
        alarm_name=f"{watched.settings.service}-{name}",
        alarm_description=alarm_description(watched.manifest, what, section),
        metric=metric,
        threshold=threshold,
        comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
        if below
        else cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
        evaluation_periods=periods,
        datapoints_to_alarm=breaching,
        treat_missing_data=missing,
    )
    if notify:
        notify_on(made, notify)
    return made
