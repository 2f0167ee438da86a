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
        ({"auth": "none"}, "auth: Input should be 'iam', 'api-key', 'cognito'"),
        ({"timeout": 30}, "timeout: Input should be less than or equal to 28"),
        ({"log_level": "TRACE"}, "log_level: Input should be"),
        ({"alarm_destination": "nobody"}, "alarm_destination: String should match pattern"),
        ({"log_retention_days": 8}, "settings: Value error, log_retention_days is one of 1, 3, 5"),
        ({"image_tag": "v1"}, "settings: Value error, image_repository and image_tag go together"),
        (
            {"image_repository": "r", "image_tag": f"sha256:{'0' * 64}", "batch_parquet": "true"},
            "settings: Value error, batch_parquet needs a tag, whose image with pyarrow is "
            "TAG-parquet",
        ),
        ({"auth": "cognito"}, "settings: Value error, auth=cognito needs user_pool_arn"),
        ({"snapstart": 1, "provisioned_concurrency": 1}, "exclude each other"),
        ({"max_concurrency": 1, "provisioned_concurrency": 2}, "over max_concurrency"),
        ({"rate_limit": 500}, "burst_limit is under rate_limit"),
        ({"rollout": "linear", "bake_minutes": 5}, "bake_minutes >= 9"),
        ({"pinned_version": 0}, "pinned_version: Input should be greater than or equal to 1"),
        (
            {"pinned_worker_version": 0},
            "pinned_worker_version: Input should be greater than or equal to 1",
        ),
        (
            {"auto_rollback_on": "hope"},
            "auto_rollback_on: Input should be 'none', 'impact', 'drift' or",
        ),
        ({"rollback_cooldown_hours": 0}, "rollback_cooldown_hours: Input should be greater"),
        (
            {"low_traffic_policy": "hope"},
            "low_traffic_policy: Input should be 'fail' or 'replay_golden_rows'",
        ),
        ({"memroy": 512}, "Unknown setting 'memroy'. Did you mean 'memory'?"),
        ({"colour": "red"}, "Unknown setting 'colour'"),
        ({"model": "absent"}, "model: no model is named absent: diabetes"),
    ],
)
def test_a_wrong_value_is_one_line(context: dict[str, object], line: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings.read(context)
    (told,) = str(error.value).splitlines()
    assert line in told


def test_every_wrong_value_is_reported_at_once() -> None:
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
    assert line == "infra: Unknown setting 'stagee'. Did you mean 'stage'?"


DEPLOY = """
[default]
memory = 512
log_level = "ERROR"

[stage.dev]

[stage.prod]
memory = 1024
timeout = 9
alarm_destination = "team@example.org"

[stage.prod.diabetes]
timeout = 5
jobs = true

[stage.prod.wine]
timeout = 7
"""


def deploy_toml(directory: Path, text: str) -> Path:
    file = directory / "deploy.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_settings_of_stage_and_model_override_the_default(tmp_path: Path) -> None:
    artifact(tmp_path / "models")
    shutil.copytree(tmp_path / "models/diabetes", tmp_path / "models/wine")
    file = deploy_toml(tmp_path, DEPLOY)
    chosen = {"model": "diabetes"}
    dev, _ = settings.read(chosen, tmp_path / "models", file)
    assert (dev.stage, dev.memory, dev.timeout, dev.jobs) == ("dev", 512, 28, False)
    prod, _ = settings.read({**chosen, "stage": "prod"}, tmp_path / "models", file)
    assert (prod.memory, prod.timeout, prod.jobs, prod.log_level) == (1024, 5, True, "ERROR")
    assert prod.alarm_destination == "team@example.org"
    command = {**chosen, "stage": "prod", "timeout": "3", "jobs": "false"}
    prod, _ = settings.read(command, tmp_path / "models", file)
    assert (prod.memory, prod.timeout, prod.jobs) == (1024, 3, False)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[stage.prod]\nmemoryy = 1",
            "deploy.toml: [stage.prod]: Unknown setting 'memoryy'. Did you mean 'memory'?",
        ),
        ("[default]\nstage = 'dev'", "deploy.toml: [default]: Unknown setting 'stage'"),
        (
            "[stage.prod.diabetes]\njob = 1",
            "[stage.prod.diabetes]: Unknown setting 'job'. Did you mean 'jobs'?",
        ),
        ("[stage.prod.diabetis]", "deploy.toml: [stage.prod]: Unknown setting 'diabetis'"),
        ("[stages.prod]", "deploy.toml: [stages] is neither [default] nor [stage.NAME]"),
        ("[stage.test]\n[stage.prod]", "There is no [stage.dev]. The stages: test, prod"),
        ("stage = 3", "deploy.toml: It has tables [default] and [stage.NAME]"),
        ("default = 3", "deploy.toml: It has tables [default] and [stage.NAME]"),
        ("[stage.dev]\nmemory = 1", "memory: Input should be greater than or equal to 256"),
        ("[stage.dev", "deploy.toml: "),
    ],
)
def test_a_fault_of_deploy_toml_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings.read({}, file=deploy_toml(tmp_path, text))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_the_deploy_toml_of_this_repository_has_no_fault() -> None:
    for stage in ("dev", "prod"):
        settings.read({"stage": stage}, file=ROOT / "deploy.toml")
