"""Accepted findings of cdk-nag, each on one construct and with its reason.

tests/infra/test_security.py has the whole list, so a new one is seen in review.
"""

import aws_cdk as cdk
from constructs import IConstruct


def suppress_nag(construct: IConstruct, reasons: dict[str, str]) -> None:
    """Accept findings (rule id -> reason) on this construct and what is in it, nowhere else."""
    cdk.Validations.of(construct).acknowledge(
        *(cdk.Acknowledgment(id=rule, reason=reason) for rule, reason in reasons.items())
    )
