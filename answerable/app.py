"""The CDK app that cdk.json names: `python -m answerable.app` finds infra in a wheel too."""

import sys

from infra.app import main

if __name__ == "__main__":
    sys.exit(main())
