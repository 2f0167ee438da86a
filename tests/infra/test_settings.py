import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra import settings
from infra.settings import SettingsError
from tests.fixtures.artifact import DIABETES, PROJECT
from tests.infra.conftest import ROOT


def test_defaults_need_only_a_model() -> None:
    chosen, manifest = settings.read({})
    assert chosen.model == manifest.name == "diabetes"
    assert (chosen.service, chosen.rollout, chosen.auth) == ("diabetes-dev", "canary", "iam")
    assert not chosen.snapstart


def test_values_come_as_the_command_line_has_them() -> None:
    chosen, _ = settings.read({"memory": "3008", "snapstart": "true", "stage": "prod"})
    assert (chosen.memory, chosen.snapstart, chosen.service) == (3008, True, "diabetes-prod")


def test_keys_of_cdk_itself_are_not_ours() -> None:
    settings.read({"@aws-cdk/core:x": True, "aws:cdk:bundling": [], "availability-zones:a=1": []})


@pytest.mark.parametrize(
    ("context", "line"),
    [
        ({"stage": "Prod!"}, "stage: String should match pattern"),
        ({"memory": "lots"}, "memory: Input should be a valid integer"),
        ({"memory": 64}, "memory: Input should be greater than or equal to 256"),
        ({"rollout": "big-bang"}, "rollout: Input should be 'canary', 'linear' or 'all-at-once'"),
        ({"auth": "none"}, "auth: Input should be 'iam', 'api-key' or 'cognito'"),
        ({"timeout": 30}, "timeout: Input should be less than or equal to 28"),
        ({"log_level": "TRACE"}, "log_level: Input should be"),
        ({"alarm_target": "nobody"}, "alarm_target: String should match pattern"),
        ({"retention_days": 8}, "settings: Value error, retention_days is one of 1, 3, 5"),
        ({"image_tag": "v1"}, "settings: Value error, image_repository and image_tag go together"),
        ({"auth": "cognito"}, "settings: Value error, auth=cognito and user_pool_arn go together"),
        ({"snapstart": 1, "provisioned_concurrency": 1}, "exclude each other"),
        ({"max_concurrency": 1, "provisioned_concurrency": 2}, "over max_concurrency"),
        ({"rate_limit": 500}, "burst_limit is under rate_limit"),
        ({"rollout": "linear", "bake_minutes": 5}, "bake_minutes >= 9"),
        ({"pinned_version": 0}, "pinned_version: Input should be greater than or equal to 1"),
        ({"pinned_worker": 0}, "pinned_worker: Input should be greater than or equal to 1"),
        ({"rollback_on": "hope"}, "rollback_on: Input should be 'nothing', 'impact', 'drift' or"),
        ({"rollback_cooldown_hours": 0}, "rollback_cooldown_hours: Input should be greater"),
        ({"after_traffic": "hope"}, "after_traffic: Input should be 'traffic' or 'replay'"),
        ({"memroy": 512}, "memroy: there is no such setting; do you mean memory?"),
        ({"colour": "red"}, "colour: there is no such setting"),
        ({"model": "absent"}, "model: absent: manifest.json: No such file or directory"),
    ],
)
def test_a_wrong_value_is_one_line(context: dict[str, object], line: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings.read(context)
    (told,) = str(error.value).splitlines()
    assert line in told


def test_every_wrong_value_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        settings.read({"memory": 1, "stage": "?", "auth": "x"})
    assert len(str(error.value).splitlines()) == 3


def artifact(directory: Path, **changes: object) -> Path:
    """Artifacts with the shipped one in it, changed."""
    shutil.copytree(DIABETES, directory / "diabetes")
    path = directory / "diabetes/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    path.with_name("manifest.sha256").unlink()
    return directory


def test_two_models_need_a_choice(tmp_path: Path) -> None:
    artifact(tmp_path)
    shutil.copytree(tmp_path / "diabetes", tmp_path / "wine")
    with pytest.raises(SettingsError, match="model: name one of several models: diabetes, wine"):
        settings.read({}, tmp_path)
    with pytest.raises(SettingsError, match="model: the artifact in wine/ is named diabetes"):
        settings.read({"model": "wine"}, tmp_path)


def test_a_contract_that_lambda_cannot_keep(tmp_path: Path) -> None:
    limits = {"rows": 1, "body_bytes": 7_000_000, "response_bytes": 1, "elements": 1}
    with pytest.raises(SettingsError, match="over what Lambda takes in one request"):
        settings.read({}, artifact(tmp_path, limits=limits))


def test_a_damaged_manifest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model: diabetes: manifest.json: owner: "):
        settings.read({}, artifact(tmp_path, owner=3))


def test_the_command_prints_lines_and_no_traceback() -> None:
    context = json.dumps({"memory": "lots", "stagee": "prod"})
    run = subprocess.run(
        [sys.executable, "-m", "infra.app"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CDK_CONTEXT_JSON": context},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line == "infra: stagee: there is no such setting; do you mean stage?"
