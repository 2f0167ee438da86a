import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import prediction_id
from handler.manifest import File, Output
from handler.prediction_id import API, WORKER, BadId, IdRequest, job_request, new_request

VALUE = Output("y", "y", "float32", (None, 1), "value")
LABEL = Output("label", "l", "string", (None,), "label", classes=("no", "yes"))
CHANCES = Output("p", "p", "float32", (None, 2), "probabilities", classes=("no", "yes"))
RAW = Output("raw", "r", "float32", (None, 3), "tensor")


def manifest(*outputs: Output, name: str = "test", version: str = "1.2.3") -> Any:
    files = {"model.onnx": File("abcdef" + "0" * 58, 1)}
    fields = {"outputs": outputs, "name": name, "version": version, "files": files}
    return type("M", (), fields)()


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=9),
    st.sampled_from(["", "a secret"]),
)
def test_an_id_says_what_was_predicted_and_by_whom(values: list[float], secret: str) -> None:
    issue = prediction_id.make_id_generator(manifest(VALUE), "42", secret)
    before = time.time_ns() // 1_000_000
    ids = issue([np.array(values, "float32")[:, None]], [new_request(len(values))])
    assert len(set(ids)) == len(values)
    for row, (id, value) in enumerate(zip(ids, values, strict=True)):
        parsed = prediction_id.parse(id.decode(), prediction_id.signer(secret))
        assert (parsed.kind, parsed.value, parsed.row) == (prediction_id.NUMBER, value, row)
        assert (parsed.version, parsed.model, parsed.function_version) == ("1.2.3", "abcdef", "42")
        assert parsed.prefix == ids[0].decode()[: prediction_id.REQUEST_PREFIX_CHARS]
        assert before <= parsed.milliseconds <= time.time_ns() // 1_000_000
        assert parsed.name_checksum == prediction_id.model_name_checksum("test")


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    issue = prediction_id.make_id_generator(manifest(VALUE), "1", "")
    stamps = [0, 1, 63, 64, 4095, 4096, 10**12, 1_800_000_000_000, 2**47]
    ids = []
    for stamp in stamps:
        monkeypatch.setattr(time, "time_ns", lambda stamp=stamp: stamp * 1_000_000)
        ids += issue([np.zeros((2, 1))], [new_request(2)])
    assert sorted(ids) == ids
    assert {len(id) for id in ids} == {prediction_id.ID_CHARS}
    assert all(id[:1].isdigit() for id in ids)


@pytest.mark.parametrize("secret", ["", "key"])
@pytest.mark.parametrize("rows", [1, 3])
def test_any_change_is_found(secret: str, rows: int) -> None:
    seal = prediction_id.signer(secret)
    issue = prediction_id.make_id_generator(manifest(VALUE), "1", secret)
    id = issue([np.full((rows, 1), 7.0)], [new_request(rows)])[-1].decode()
    assert prediction_id.parse(id, seal).value == 7.0
    for i in range(prediction_id.ID_CHARS):
        changed = id[:i] + ("a" if id[i] != "a" else "b") + id[i + 1 :]
        with pytest.raises(BadId):
            prediction_id.parse(changed, seal)
    for text in ("", "x", id[:-1], id + "0", "é" * 52, "=" * 52, " " + id[1:]):
        with pytest.raises(BadId, match="malformed_id"):
            prediction_id.parse(text, seal)


def test_only_the_key_proves_an_id() -> None:
    made_up = prediction_id.make_id_generator(manifest(VALUE), "1", "another key")(
        [np.ones((1, 1))], [new_request(1)]
    )[0]
    with pytest.raises(BadId, match="invalid_signature"):
        prediction_id.parse(made_up.decode(), prediction_id.signer("key"))
    assert prediction_id.parse(made_up.decode()).value == 1


@pytest.mark.parametrize("count", [1, 2, 500])
def test_classes_are_recognised_by_their_json(count: int) -> None:
    labels = np.array([["yes", "no"][i % 2] for i in range(count)], object)
    shares = np.array([[0.1, 0.9] if i % 2 == 0 else [0.8, 0.2] for i in range(count)])
    for outputs, arrays in (
        ((LABEL, CHANCES), [labels, shares]),
        ((CHANCES,), [shares]),
        ((RAW, LABEL), [np.zeros((count, 3)), labels]),
    ):
        ids = prediction_id.make_id_generator(manifest(*outputs), "1", "")(
            arrays, [new_request(count)]
        )
        parsed = [prediction_id.parse(id.decode(), prediction_id.signer("")) for id in ids]
        assert {one.kind for one in parsed} == {prediction_id.CLASS}
        assert [one.value for one in parsed] == [
            prediction_id.label_checksum(label) for label in labels
        ]


def test_raw_tensors_have_ids_without_a_value() -> None:
    (id,) = prediction_id.make_id_generator(manifest(RAW), "$LATEST", "")(
        [np.zeros((1, 3))], [new_request(1)]
    )
    parsed = prediction_id.parse(id.decode(), prediction_id.signer(""))
    assert (parsed.kind, parsed.value, parsed.function_version) == (
        prediction_id.NO_VALUE,
        0.0,
        "$LATEST",
    )


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.0.1-rc.1", "2.0.1"), ("1.300.0", "1.255.0"), ("10.20.30+b", "10.20.30")],
)
def test_function_versions_up_to_three_bytes_are_in_the_id(version: str, expected: str) -> None:
    (id,) = prediction_id.make_id_generator(manifest(VALUE, version=version), "1", "")(
        [np.ones(1)], [new_request(1)]
    )
    assert prediction_id.parse(id.decode(), prediction_id.signer("")).version == expected


def test_the_ids_of_several_requests_are_those_of_each() -> None:
    outputs = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
    requests = [IdRequest(1, 7, 10**12), job_request(3, "a", 10**9), IdRequest(1, 0, 5)]
    for secret in ("", "key"):
        generate = prediction_id.make_id_generator(manifest(VALUE), "1", secret, WORKER)
        together = generate([outputs], requests)
        single = [
            *generate([outputs[:1]], requests[:1]),
            *generate([outputs[1:4]], requests[1:2]),
            *generate([outputs[4:]], requests[2:]),
        ]
        assert together == single
        assert len({id[: prediction_id.REQUEST_PREFIX_CHARS] for id in together}) == 3


def test_an_id_says_which_function_predicted() -> None:
    for source, first in ((API, b"0"), (WORKER, b"1")):
        generate = prediction_id.make_id_generator(manifest(VALUE), "1", "", source)
        (id,) = generate([np.ones((1, 1))], [new_request(1)])
        assert prediction_id.parse(id.decode()).source == source
        assert id[:1] == first


def test_a_new_secret_seals_and_the_one_before_is_still_known() -> None:
    outputs = [np.ones((1, 1))]
    ids_by_secret = {}
    for secret in ("old", "new old", "older", ""):
        generate = prediction_id.make_id_generator(manifest(VALUE), "1", secret)
        ids_by_secret[secret] = generate(outputs, [new_request(1)])[0].decode()
    seals = prediction_id.verifiers("new  old ")
    assert len(seals) == 2
    assert prediction_id.parse(ids_by_secret["new old"], prediction_id.signer("new")).value == 1
    for secret_used in ("old", "new old"):
        assert prediction_id.parse(ids_by_secret[secret_used], *seals).value == 1
    for unknown in ("older", ""):  # nor does a second space let a checksum in
        with pytest.raises(BadId, match="invalid_signature"):
            prediction_id.parse(ids_by_secret[unknown], *seals)
