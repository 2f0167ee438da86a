"""The real app, less what the emulator rejects: alarms on metric math or on each other, and the
dashboard of them.

CodeDeploy is not there either; `rollout=all-at-once` is the product's own setting without it.
"""

import sys

import aws_cdk as cdk

from infra import app


def main() -> int:
    built = app.build()
    for stack in built.node.children:
        if isinstance(stack, cdk.Stack):
            for name in ("Dashboard", "Alarms", "JobsAlarms"):
                removed = stack.node.try_remove_child(name)
                assert removed or name == "JobsAlarms", name  # which is there with jobs only
            assert stack.node.find_child("Drift").node.try_remove_child("drift-silent")
    built.synth()
    return 0


if __name__ == "__main__":
    sys.exit(main())
