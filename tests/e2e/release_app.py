"""The real app with its hooks, less CodeDeploy and the alarms, which the emulator does not have.

CloudFormation leaves the alias to CodeDeploy where that is in the template. Here the alias stays at
E2E_LIVE for the same effect, and the test moves it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from infra import app

GONE = ("AWS::CodeDeploy::", "AWS::CloudWatch::")
NAMED = {"Application": "app", "DeploymentGroup": "group"}


def main() -> int:
    assembly = app.build().synth()
    path = Path(assembly.stacks[0].template_full_path)
    path.write_text(json.dumps(emulated(json.loads(path.read_text()))))
    return 0


def emulated(template: dict[str, Any]) -> dict[str, Any]:
    resources = template["Resources"]
    for name in [name for name, item in resources.items() if item["Type"].startswith(GONE)]:
        del resources[name]
    for item in resources.values():
        properties = item["Properties"]
        if item["Type"] == "AWS::IAM::Policy":
            statements = properties["PolicyDocument"]["Statement"]
            kept = [s for s in statements if "codedeploy:" not in json.dumps(s["Action"])]
            properties["PolicyDocument"]["Statement"] = kept
        elif item["Type"] == "AWS::Lambda::Function":
            endpoint = os.environ["E2E_CODEDEPLOY"]
            variables = properties.get("Environment", {}).get("Variables", {})
            variables["AWS_ENDPOINT_URL_CODEDEPLOY"] = endpoint
            if "APPLICATION" in variables:
                variables |= {"APPLICATION": "app", "DEPLOYMENT_GROUP": "group"}
        elif item["Type"] == "AWS::Events::Rule" and "aws.cloudwatch" in json.dumps(item):
            del properties["EventPattern"]["resources"]  # the alarms that are gone
        elif item["Type"] == "AWS::Lambda::Alias" and item.pop("UpdatePolicy", None):
            live = os.environ["E2E_LIVE"]
            properties["FunctionVersion"] = live or properties["FunctionVersion"]
    for name, value in NAMED.items():
        if name in template["Outputs"]:  # a pinned stack has none
            template["Outputs"][name]["Value"] = value
    return template


if __name__ == "__main__":
    sys.exit(main())
