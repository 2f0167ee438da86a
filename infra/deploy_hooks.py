"""The two functions that CodeDeploy asks before and after it moves traffic.

See handler/release/deploy_hooks.py. They run the image that is being released, so that its golden rows and
its contract are the ones that the version is held to.
"""

import hashlib

from constructs import Construct

from handler.manifest import Manifest
from infra.function import ALIAS, ModelFunction, allow, any_version, ops_function
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

# CodeDeploy's managed role calls functions of this name and no others
PREFIX = "CodeDeployHook_"


class Hook(Construct):
    """One of the two: `when` is "before" or "after"."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        when: str,
        settings: Settings,
        manifest: Manifest,
        scoring: ModelFunction,
    ) -> None:
        super().__init__(scope, id)
        self.when = when
        # Only what clients sent can be sent again, so nothing may have been taken out of it.
        captured = (
            when == "after"
            and settings.log_payloads == "full"
            and all(feature.log_policy == "keep" for feature in manifest.features)
        )
        group = {"PAYLOAD_LOG_GROUP": scoring.log_group.log_group_name} if captured else {}
        self.function = ops_function(
            self,
            settings=settings,
            manifest=manifest,
            scoring=scoring,
            entry_point=f"handler.release.deploy_hooks.{when}_traffic",
            description=f"what the new version is asked {when} it gets traffic",
            name=name(settings.service, when),
            environment={
                # a new value for each version, so this function is always the image's own
                "VERSION_ARN": scoring.version.function_arn,
                "LOW_TRAFFIC_POLICY": settings.low_traffic_policy,
                "MINIMUM_REQUESTS": str(settings.minimum_requests),
                **group,
            },
        )
        # CloudFormation must have updated the hook before it moves the alias; the name of the
        # hook in the alias's update policy does not make it wait.
        scoring.alias.node.add_dependency(self.function)
        arn = scoring.function.function_arn
        if when == "before":
            versions = [scoring.version.function_arn, f"{arn}:{ALIAS}"]
            allow(self.function, ["lambda:InvokeFunction"], *versions)
            return
        # which version is the old one, only the deployment says
        allow(self.function, ["lambda:InvokeFunction"], f"{arn}:*")
        # the metrics of CloudWatch are no resources: IAM knows only all of them
        allow(self.function, ["cloudwatch:GetMetricData"], "*")
        if captured:
            allow(self.function, ["logs:FilterLogEvents"], scoring.log_group.log_group_arn)
        suppress_nag(
            self,
            {
                "AwsSolutions-IAM5[Resource::*]": "CloudWatch's metrics are no resources.",
                any_version(scoring.function): "Any version may be the one that is replaced.",
            },
        )

    def may_answer(self, group_arn: str) -> None:
        """Let it ask about and answer to the deployments of one group."""
        allow(self.function, ["codedeploy:PutLifecycleEventHookExecutionStatus"], group_arn)
        if self.when == "after":
            allow(self.function, ["codedeploy:GetDeployment"], group_arn)


def name(service: str, when: str) -> str:
    """Lambda takes 64 characters; a longer service's name is cut, and told apart by its hash."""
    if len(service) > 42:
        service = f"{service[:33]}-{hashlib.sha256(service.encode()).hexdigest()[:8]}"
    return f"{PREFIX}{service}_{when}"
