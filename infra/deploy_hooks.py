"""The deploy hooks: two functions that CodeDeploy calls before and after it moves traffic.

See handler/release/deploy_hooks.py. They run the image that is released, which has the golden rows
and the contract that the version must keep.
"""

import hashlib

from constructs import Construct

from infra.alarms import MonitoringContext
from infra.function import ALIAS, ModelFunction, allow, any_version, ops_function
from infra.suppress_nag import suppress_nag

# CodeDeploy's managed role may call functions with this prefix only
PREFIX = "CodeDeployHook_"


class Hook(Construct):
    """One hook; `when` is "before" or "after". It also checks that a `worker` starts."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        context: MonitoringContext,
        when: str,
        worker: ModelFunction | None,
    ) -> None:
        super().__init__(scope, id)
        settings, manifest, scoring = context.settings, context.manifest, context.scoring
        # instances are sent again, so the log must have all of their fields
        logged = (
            when == "after"
            and settings.log_payloads == "full"
            and all(feature.log_policy == "keep" for feature in manifest.features)
        )
        more = {"PAYLOAD_LOG_GROUP": scoring.log_group.log_group_name} if logged else {}
        if worker:
            more["WORKER_VERSION_ARN"] = worker.version.function_arn
        self.function = ops_function(
            self,
            settings,
            manifest,
            f"handler.release.deploy_hooks.{when}_traffic",
            description=f"checks the new version {when} it gets traffic",
            name=name(settings.service, when),
            environment={
                # it changes with each version, so CloudFormation always updates the hook
                "VERSION_ARN": scoring.version.function_arn,
                "LOW_TRAFFIC_POLICY": settings.low_traffic_policy,
                "MINIMUM_REQUESTS": str(settings.minimum_requests),
                "MODEL_SHA256": manifest.files["model.onnx"].sha256,
                **more,
            },
        )
        # CloudFormation must have updated the hook before it moves the alias; the name of the
        # hook in the alias's update policy does not make it wait.
        scoring.alias.node.add_dependency(self.function)
        arn = scoring.function.function_arn
        if when == "before":
            versions = [scoring.version.function_arn, f"{arn}:{ALIAS}"]
            versions += [worker.version.function_arn] if worker else []
            allow(self.function, ["lambda:InvokeFunction"], *versions)
            return
        # only the deployment names the old version
        allow(self.function, ["lambda:InvokeFunction"], f"{arn}:*")
        # IAM has no resources for CloudWatch's metrics
        allow(self.function, ["cloudwatch:GetMetricData"], "*")
        if logged:
            allow(self.function, ["logs:FilterLogEvents"], scoring.log_group.log_group_arn)
        no_resources = "CloudWatch's metrics are no resources."
        suppress_nag(self, {"AwsSolutions-IAM5[Resource::*]": no_resources})
        replaced = "Any version may be the one that is replaced."
        suppress_nag(self, {any_version(scoring.function): replaced})

    def may_answer(self, group_arn: str) -> None:
        """Let it read and answer the deployments of one group."""
        verbs = ("GetDeployment", "PutLifecycleEventHookExecutionStatus")
        allow(self.function, [f"codedeploy:{verb}" for verb in verbs], group_arn)


def name(service: str, when: str) -> str:
    """Return a name of at most 64 characters; a long service is cut and gets its hash."""
    if len(service) > 42:
        service = f"{service[:33]}-{hashlib.sha256(service.encode()).hexdigest()[:8]}"
    return f"{PREFIX}{service}_{when}"
