"""The stack of one model in one stage. Stacks share nothing, so they can be side by side."""

import json
import re

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from constructs import Construct

from handler.manifest import Manifest
from infra import image
from infra.alarms import CanaryAlarms, MonitoringContext, OutcomeAlarms, ServiceAlarms, topic
from infra.api import Api
from infra.archive import Archive
from infra.batch import Batch, failure_alarm
from infra.dashboard import Dashboard
from infra.drift import DriftMonitor
from infra.function import ModelFunction
from infra.http_api import FunctionUrl, HttpApi
from infra.jobs import Jobs, JobsAlarms
from infra.rollback import Rollback
from infra.rollout import Rollout
from infra.secret import Secret
from infra.settings import SETTINGS, Settings


class ModelStack(cdk.Stack):
    """The function, the API in front of it, and the monitoring of both."""

    def __init__(self, scope: Construct, settings: Settings, manifest: Manifest) -> None:
        super().__init__(
            scope,
            settings.stack,
            synthesizer=cdk.DefaultStackSynthesizer(qualifier=settings.bootstrap_qualifier or None),
            description=f"{manifest.name} {manifest.version}, {settings.stage}: "
            f"ONNX inference, owned by {manifest.owner}"[:1024],
        )
        owner = re.sub(r"[^\w .:/=+@-]", " ", manifest.owner)[:256]  # the alphabet of tags
        tags = {"model": settings.model, "stage": settings.stage, "owner": owner}
        tags = {f"answerable:{key}": value for key, value in tags.items()} | settings.tags
        for key, value in tags.items():
            cdk.Tags.of(self).add(key, value)
        if settings.permissions_boundary:
            boundary = iam.ManagedPolicy.from_managed_policy_arn(
                self, "Boundary", settings.permissions_boundary
            )
            iam.PermissionsBoundary.of(self).apply(boundary)
        if settings.bake_minutes > 60 and settings.rollout != "all-at-once":
            text = f"bake_minutes: nothing else can be deployed for {settings.bake_minutes} minutes"
            cdk.Annotations.of(self).add_warning_v2("answerable:bake-minutes", text)
        # what `answerable deploy` compares the next deployment with
        self.template_options.metadata = {
            SETTINGS: settings.model_dump(mode="json", exclude_none=True)
        }
        changed = settings.model_dump(mode="json", exclude_defaults=True)
        cdk.CfnOutput(self, "Settings", value=json.dumps(changed))
        scoring = ModelFunction(
            self,
            "Scoring",
            settings=settings,
            manifest=manifest,
            entry_point="handler.function.lambda_handler",
            timeout=cdk.Duration.seconds(settings.timeout),
        )
        if not settings.image_repository and not image.pinned(settings.base_image):
            text = image.MOVES.format(settings.base_image or image.BASE_IMAGE)
            cdk.Annotations.of(self).add_warning_v2("answerable:base-image", text)
        secret = Secret(self, "Secret", settings)
        scoring.function.add_environment("PREDICTION_ID_SECRET", secret.value)
        endpoint: Api | HttpApi | FunctionUrl
        if settings.endpoint == "rest":
            endpoint = Api(self, "Api", settings=settings, manifest=manifest, alias=scoring.alias)
            if settings.cors_origins:  # the other endpoints add the headers
                scoring.function.add_environment("CORS_ORIGINS", " ".join(settings.cors_origins))
        else:
            kind = HttpApi if settings.endpoint == "http" else FunctionUrl
            endpoint = kind(self, "Api", settings=settings, alias=scoring.alias)
        page = topic(self, "Topic", settings, settings.alarm_destination)
        ticket = page
        if settings.ticket_destination not in ("", settings.alarm_destination):
            ticket = topic(self, "TicketTopic", settings, settings.ticket_destination)
        context = MonitoringContext(settings, manifest, scoring, page, ticket, endpoint.metrics)
        alarms: list[cloudwatch.IAlarm] = [*ServiceAlarms(self, "Alarms", context).alarms]
        rollout, worker = None, None
        if settings.jobs:
            jobs = Jobs(self, "Jobs", settings=settings, manifest=manifest, scoring=scoring)
            worker = jobs.worker
            worker.function.add_environment("PREDICTION_ID_SECRET", secret.value)
            alarms += JobsAlarms(self, "JobsAlarms", context, jobs).alarms
        if settings.rollout != "all-at-once":
            canary = CanaryAlarms(self, "Canary", context)
            rollout = Rollout(self, "Rollout", context, worker, canary.alarms)
            alarms += canary.alarms
            cdk.CfnOutput(self, "Application", value=rollout.group.application.application_name)
            cdk.CfnOutput(self, "DeploymentGroup", value=rollout.group.deployment_group_name)
        batch = None
        if settings.batch:
            batch = Batch(self, "Batch", settings=settings, manifest=manifest, scoring=scoring)
            batch.worker.function.add_environment("PREDICTION_ID_SECRET", secret.value)
            alarms.append(failure_alarm(batch, context))
        batch_worker = batch and batch.worker
        workers = [function for function in (worker, batch_worker) if function]
        drift = DriftMonitor(self, "Drift", context, workers)
        outcomes = OutcomeAlarms(self, "Outcomes", context, workers)
        rollback = Rollback(self, "Rollback", context, drift, outcomes, worker, rollout)
        if settings.archive:
            alarms.append(Archive(self, "Archive", context, [scoring, *workers]).alarm)
        alarms += [*rollback.alarms, *drift.alarms, *outcomes.alarms]
        Dashboard(self, "Dashboard", context, alarms)
        cdk.CfnOutput(self, "Url", value=endpoint.url)
        cdk.CfnOutput(self, "FunctionName", value=scoring.function.function_name)
        cdk.CfnOutput(self, "LiveVersion", value=scoring.alias.version.version)
