"""`cdk synth|deploy`: context in, one stack out. Synthesis calls neither AWS nor Docker."""

import sys
from typing import Any

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks, ServerlessChecks

from infra import settings
from infra.stack import ModelStack


def build(outdir: str | None = None, context: dict[str, Any] | None = None) -> cdk.App:
    """The app with its one stack. Raises SettingsError before anything is synthesised."""
    app = cdk.App(outdir=outdir, context=context)
    chosen, manifest = settings.read(app.node.get_all_context())
    ModelStack(app, chosen, manifest)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app), ServerlessChecks(app))
    return app


def main() -> int:
    """Exit code 2 and one line per wrong setting; otherwise the cloud assembly."""
    try:
        app = build()
    except settings.SettingsError as error:
        for line in str(error).splitlines():
            print(f"infra: {line}", file=sys.stderr)
        return 2
    app.synth()
    return 0


if __name__ == "__main__":
    sys.exit(main())
