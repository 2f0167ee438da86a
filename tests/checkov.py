"""`python -m tests.checkov CHECKOV`: what checkov finds in the templates, beside what is accepted.

checkov pins other versions of shared packages, so it runs in an environment of its own. It
downloads nothing.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra import app
from tests.fixtures.artifact import PROJECT
from tests.infra.conftest import FLAGS

ALL = {"jobs": True, "archive": True, "batch": True, "log_payloads": "full"}
HARDENED = ALL | {
    "kms_key_arn": "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012",
    "subnet_ids": ["subnet-0123456789abcdef0"],
    "security_group_ids": ["sg-0123456789abcdef0"],
    "tracing": True,
    "max_concurrency": 50,
}

# Findings that are accepted under all settings, with the reason.
ACCEPTED = {
    "CKV_AWS_18": "S3's access logs cost more than the buckets; CloudTrail's data events serve",
    "CKV_AWS_21": "jobs and batches expire: older versions would keep what has to be deleted",
    "CKV_AWS_115": "a reservation is taken from the account's others; max_concurrency sets one",
    "CKV_AWS_116": "called by services that repeat a call themselves and have an alarm",
    "CKV_AWS_117": "subnet_ids is for functions that run the model; the others call AWS alone",
    "CKV_AWS_120": "a prediction has an id of its own, so no response may be repeated",
}
# Findings that a setting removes: by default, AWS's own keys encrypt, and nothing is traced.
REMOVED = {
    "CKV_AWS_26": "kms_key_arn",
    "CKV_AWS_27": "kms_key_arn",
    "CKV_AWS_73": "tracing",
    "CKV_AWS_158": "kms_key_arn",
    "CKV_AWS_173": "kms_key_arn",
}
# Findings that a setting adds, with the reason.
ADDED = {
    "CKV_AWS_111": "tracing: xray:PutTraceSegments and PutTelemetryRecords have no resources",
}


def main(checkov: str) -> None:
    """Print each difference, and exit with 1 if there is one."""
    differences = [
        *compare("everything on", {*ACCEPTED, *REMOVED}, find(checkov, ALL)),
        *compare("hardened", {*ACCEPTED, *ADDED}, find(checkov, HARDENED)),
    ]
    print(*(differences or ["checkov: no finding but the accepted ones"]), sep="\n")
    sys.exit(bool(differences))


def compare(name: str, accepted: set[str], found: dict[str, str]) -> list[str]:
    """Return the findings that are not accepted, and the accepted rules without a finding."""
    new = [f"{name}: {rule} {found[rule]}" for rule in sorted(found.keys() - accepted)]
    gone = sorted(accepted - found.keys())
    return new + [f"{name}: {rule} is accepted, but is not found" for rule in gone]


def find(checkov: str, settings: dict[str, Any]) -> dict[str, str]:
    """Return the failed rules of the template of these settings, with their resources."""
    with TemporaryDirectory() as folder, contextlib.chdir(PROJECT):
        app.build(folder, FLAGS | settings).synth()
        (template,) = Path(folder).glob("*.template.json")
        command = [checkov, "--file", str(template), "--framework", "cloudformation"]
        command += ["--skip-download", "--compact", "--quiet", "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    report: Any = json.loads(done.stdout)
    if report["summary"]["parsing_errors"] or not report["summary"]["passed"]:
        raise SystemExit(f"checkov could not read {template}: {done.stderr}")
    found: dict[str, str] = {}
    for finding in report["results"]["failed_checks"]:
        rule = finding["check_id"]
        found[rule] = f"{found.get(rule, finding['check_name'] + ':')} {finding['resource']}"
    return found


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).absolute()))
