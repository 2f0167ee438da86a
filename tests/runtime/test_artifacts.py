"""Damaged models: the init fails loudly, readiness says which file, nothing is predicted."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler import app
from handler.errors import ArtifactError
from handler.jobs import worker
from handler.settings import Settings
from tests.fixtures import artifact, events
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context
from tests.runtime.environment import GONE, Environment, of

FILES = sorted(path.name for path in DIABETES.iterdir())
HASHED = [name for name in FILES if not name.startswith("manifest.")]
EXAMPLES = [40, pytest.param(600, marks=pytest.mark.slow)]
PING = events.rest(None, "/ping", "GET")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DIABETES, tmp_path / "copy"))


def refused(directory: Path, name: str) -> None:
    """That a function with this artifact is not ready, says why on every route, and predicts
    nothing; that the worker does not start.
    """
    handle = app.create(Settings(directory))
    for event in (PING, events.rest(json.dumps({"instances": [{}]}))):
        answer = handle(event, Context())
        assert answer["statusCode"] == 503
        assert name in json.loads(answer["body"])["detail"]
    with pytest.raises(ArtifactError, match=name):
        worker.create(Settings(directory))


@pytest.mark.fault(
    "Any one bit of a model's files is flipped",
    "The init fails, `/ping` names the file with 503, the worker stops at its init",
)
@pytest.mark.parametrize("examples", EXAMPLES)
def test_a_flipped_bit_is_found_wherever_it_is(copy: Path, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
    def check(name: str, place: float, bit: int) -> None:
        whole = (DIABETES / name).read_bytes()
        damaged = bytearray(whole)
        damaged[int(place * len(whole))] ^= 1 << bit
        (copy / name).write_bytes(damaged)
        refused(copy, name)
        (copy / name).write_bytes(whole)

    check()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def swapped(path: Path) -> None:
    other = path.with_name(next(name for name in HASHED if name != path.name))
    other.rename(path.with_name("x"))
    path.rename(other)
    path.with_name("x").rename(path)


def elsewhere(link: Callable[[Path, Path], None]) -> Callable[[Path], None]:
    def linked(path: Path) -> None:
        other = path.with_name("other")
        other.write_bytes(path.read_bytes()[::-1])
        path.unlink()
        link(other, path)

    return linked


@pytest.mark.fault(
    "A model's file is cut off, empty, gone, a folder, a link to another, or another",
    "503 with the file's name: nothing is served that is not what was packed",
)
@pytest.mark.parametrize("name", HASHED)
@pytest.mark.parametrize(
    "damage",
    [
        cut,
        empty,
        Path.unlink,
        lambda path: (path.unlink(), path.mkdir()),
        swapped,
        elsewhere(os.symlink),
        elsewhere(os.link),
    ],
    ids=["cut", "empty", "gone", "folder", "swapped", "symlink", "hard link"],
)
def test_a_file_that_is_not_the_packed_one_is_not_served(
    copy: Path, damage: Callable[[Path], None], name: str
) -> None:
    damage(copy / name)
    refused(copy, HASHED[0] if damage is swapped else name)


@pytest.mark.fault(
    "The manifest is cut off, gone, no manifest, or another model's",
    "503 that says so, whatever the other files are",
)
@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (cut, "manifest.json"),
        (empty, "manifest.json"),
        (Path.unlink, "manifest.json"),
        (lambda path: path.write_text("{}"), "manifest.json"),
        (lambda path: shutil.copy(artifact.endless(path.with_name("x")) / path.name, path), "json"),
        (lambda path: empty(path.with_name("manifest.sha256")), "manifest.sha256"),
    ],
    ids=["cut", "empty", "gone", "no manifest", "another model's", "no seal"],
)
def test_a_wrong_manifest_is_not_served(
    copy: Path, damage: Callable[[Path], None], name: str
) -> None:
    damage(copy / "manifest.json")
    refused(copy, name)


@pytest.mark.fault(
    "A damaged model is deployed",
    "The function stays up and answers 503 to each call; one CRITICAL line has the reason",
)
def test_a_damaged_model_is_reported_to_lambda(copy: Path) -> None:
    empty(copy / "model.onnx")
    with Environment(copy) as environment:
        assert environment.invoke(PING).status == 503
        assert environment.record()["level"] == "ERROR"
        assert "model.onnx" in environment.invoke(PING).answer["detail"]


@pytest.mark.fault(
    "A damaged model is deployed, and the queue has messages",
    "The worker's init fails: Lambda asks for no message, so none uses up its receives",
)
def test_a_worker_with_a_damaged_model_takes_no_message(copy: Path) -> None:
    empty(copy / "model.onnx")
    with Environment(copy, "handler.jobs.function.lambda_handler") as environment:
        environment.send({"Records": []})
        told = environment.wait()
        assert told.what == "init/error"
        assert told.content["errorType"] == "ArtifactError"
        assert "model.onnx" in told.content["errorMessage"]
        assert environment.wait() == (GONE, 1)
        assert environment.events.qsize() == 1


@pytest.mark.fault(
    "The weights' file is cut off while it is mapped into memory",
    "The process ends as one that crashed; the next one answers 503 and names the file",
)
@pytest.mark.skipif(sys.platform != "linux", reason="the signal and the mapping are Linux's")
def test_weights_that_are_cut_off_under_their_mapping(tmp_path: Path) -> None:
    directory = artifact.heavy(tmp_path / "heavy")
    with Environment(directory) as environment:
        assert environment.predict(1.0).status == 200
        os.truncate(directory / "weights.bin", 0)
        told = environment.predict(1.0)
        assert told == (GONE, -signal.SIGBUS)
    with Environment(directory) as another:
        told = another.predict(1.0)
        assert told.status == 503
        assert "weights.bin" in told.answer["detail"]


@pytest.mark.slow
@pytest.mark.fault(
    "Twenty environments of one artifact start at once, and each gets a call at once",
    "Each answers, all alike, and no two predictions have one id",
)
def test_twenty_environments_at_once(endless_dir: Path) -> None:
    with ExitStack() as stack:
        environments = [stack.enter_context(Environment(endless_dir)) for _ in range(20)]
        for environment in environments:
            environment.send(of(0.0), 60)
        answers = [environment.wait() for environment in environments]
    assert {told.status for told in answers} == {200}
    assert all(told.answer == answers[0].answer for told in answers)
    assert len({id for told in answers for id in told.ids}) == 20
