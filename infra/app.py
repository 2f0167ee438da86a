"""The CDK app: context and deploy.toml in, one stack out. Synthesis needs no AWS and no Docker."""

import sys
from typing import Any

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks, ServerlessChecks

from infra import settings
from infra.stack import ModelStack


def build(outdir: str | None = None, context: dict[str, Any] | None = None) -> cdk.App:
    """Return the app with its one stack. Raises SettingsError."""
    app = cdk.App(outdir=outdir, context=context)
    chosen, manifest = settings.read(app.node.get_all_context())
    ModelStack(app, chosen, manifest)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app), ServerlessChecks(app))
    return app


def main() -> int:
    """Synthesise. Exit with 2 and one line per wrong setting."""
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
