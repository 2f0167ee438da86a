"""Text and picture features: values, limits, protocols, drift, and hostile input."""

import base64
import io
import json
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic_core import PydanticCustomError

from answerable.packing.errors import PackError
from answerable.packing.feature_types import png
from answerable.packing.pack import pack
from answerable.simulation import plan
from handler import app, scoring
from handler.drift.bins import Binner
from handler.drift.targets import targets
from handler.encoders import image
from handler.errors import ContractViolation
from handler.jobs import storage
from handler.release import compatibility
from handler.settings import Settings
from tests.fixtures import memory_store, protocols
from tests.fixtures.events import Context
from tests.zoo import encoded_models
from tests.zoo.models import ZOO


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoded")


def packed(folder: Path, name: str, contract: str = "") -> Path:
    """Return the artifact of a zoo model, with another contract file where one is stated."""
    directory = folder / f"{name}-{abs(hash(contract))}"
    if not directory.exists():
        directory.mkdir()
        paths = ZOO[name].make(directory)
        assert paths.contract
        if contract:
            paths.contract.write_text(contract)
        options: Any = {"version": "1.0.0", "owner": "tests", "reason": "a test", "threads": 1}
        options |= {"contract": paths.contract, "artifacts": directory / "artifacts"}
        pack(paths.model, paths.sample, name="test", **options)
    return directory / "artifacts/test"


@pytest.fixture(scope="module")
def text(folder: Path) -> scoring.Scorer:
    return scoring.load(packed(folder, "tokens-of-any-length"))


@pytest.fixture(scope="module")
def picture(folder: Path) -> scoring.Scorer:
    return scoring.load(packed(folder, "picture-flat"))


@pytest.fixture(scope="module")
def picture_app(folder: Path) -> Any:
    return app.create(Settings(packed(folder, "picture-flat"), log_payloads="full"))


def score(scorer: scoring.Scorer, **columns: list[Any]) -> list[Any]:
    """Return the predictions of rows of one feature."""
    ((name, values),) = columns.items()
    body = json.dumps({"instances": [{name: value} for value in values]})
    return [json.loads(text) for text in scorer.predict(body)]


def refusal(scorer: scoring.Scorer, **columns: list[Any]) -> list[tuple[str, str]]:
    """Return pointer and code of each violation."""
    with pytest.raises(ContractViolation) as raised:
        score(scorer, **columns)
    return [(v.pointer, v.code) for v in raised.value.violations]


def encoded(image: Image.Image, **options: Any) -> str:
    """Return a picture in base64."""
    file = io.BytesIO()
    image.save(file, **({"format": "PNG"} | options))
    return base64.b64encode(file.getvalue()).decode()


def send(handler: Any, body: bytes, path: str, **headers: str) -> tuple[int, Any]:
    """Return status and document of a request."""
    response = handler(protocols.event(body, path, **headers), Context(60_000))
    return response["statusCode"], json.loads(response["body"])


# --- text ---------------------------------------------------------------------------------------


def test_rows_of_a_batch_are_answered_as_they_are_alone(text: scoring.Scorer) -> None:
    texts = ["good", "a bad, boring film", "good film, really great fun" * 9]
    together = score(text, review=texts)
    assert together == [score(text, review=[one])[0] for one in texts]
    assert together[0]["positive"] > 0.5 > together[1]["positive"]


def test_token_ids_are_taken_in_place_of_a_text(text: scoring.Scorer) -> None:
    ids = encoded_models.tokenizer().encode("good film").ids
    assert score(text, review=[ids]) == score(text, review=["good film"])
    assert refusal(text, review=[[]]) == [("/instances/0/review", "wrong_length")]
    assert refusal(text, review=[[999]]) == [("/instances/0/review/0", "out_of_range")]
    assert refusal(text, review=[["good"]]) == [("/instances/0/review/0", "type")]


def test_padding_of_a_client_is_left_out(text: scoring.Scorer, folder: Path) -> None:
    handler = app.create(Settings(packed(folder, "tokens-of-any-length")))
    arrays = encoded_models.encode(["good", "a bad, boring film"], 512, None, "int64")
    status, document, outputs = protocols.ask(handler, protocols.as_json(arrays))
    assert status == 200, document
    expected = [p["positive"] for p in score(text, review=["good", "a bad, boring film"])]
    assert np.allclose(outputs["positive"].ravel(), expected)


@pytest.mark.parametrize(
    ("pointer", "change"),
    [
        ("/inputs/1/shape", {"attention_mask": np.ones((1, 3), np.int64)}),
        ("/inputs", {"attention_mask": np.ones((2, 4), np.int64)}),
        ("/inputs", {"input_ids": np.full((2, 3), 999)}),
        ("/inputs", {"input_ids": np.full((2, 3), encoded_models.tokenizer().get_vocab_size())}),
        ("/inputs", {"attention_mask": np.zeros((2, 3), np.int64)}),
        ("/inputs/2/name", {"review": np.array([["a"], ["b"]], object)}),
        ("/inputs/2/name", {"note": np.ones((2, 3), np.int64)}),
    ],
)
def test_wrong_token_tensors_are_refused(folder: Path, pointer: str, change: Any) -> None:
    handler = app.create(Settings(packed(folder, "tokens-of-any-length")))
    arrays = {"input_ids": np.full((2, 3), 4), "attention_mask": np.ones((2, 3), np.int64)}
    status, document, _ = protocols.ask(handler, protocols.as_json(arrays | change))
    assert (status, document["errors"][0]["pointer"]) == (422, pointer), document
    assert document["errors"][0]["code"] != "model_rejected"  # before the graph runs


def test_a_text_is_cut_at_its_tokens_and_refused_over_its_characters(folder: Path) -> None:
    scorer = scoring.load(packed(folder, "tokens-of-fixed-length"))
    assert score(scorer, review=["good " * 20]) == score(scorer, review=["good " * 11])
    assert refusal(scorer, review=["a" * 201]) == [("/instances/0/review", "too_long")]


def test_the_record_has_bins_of_characters_tokens_and_unknown_tokens(text: scoring.Scorer) -> None:
    names = [target.name for target in targets(text.manifest)]
    assert set(names) == {"review", "review.tokens", "review.unknown_share", "positive"}
    unknown = text.score(json.dumps({"instances": [{"review": "nobody knows these"}]}))
    bins = dict(zip(names, Binner(text.manifest).bin("1", *unknown[:1], unknown.outputs).bins,
                    strict=True))  # fmt: skip
    assert bins["review.unknown_share"] == 10


def test_a_megabyte_of_combining_characters_is_refused_unread(text: scoring.Scorer) -> None:
    assert refusal(text, review=["e" + "\u0301" * 500_000]) == [("/instances/0/review", "too_long")]


# --- pictures -----------------------------------------------------------------------------------


def smooth(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return a seeded picture."""
    small = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1"])
def test_every_mode_of_png_is_scored_as_pillow_converts_it(
    picture: scoring.Scorer, mode: str
) -> None:
    image = smooth(30, 20, mode)
    as_grey = image.convert("L")
    expected = score(picture, picture=[encoded(as_grey)])
    assert score(picture, picture=[encoded(image)]) == expected


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_every_kind_of_jpeg_is_scored(picture: scoring.Scorer, options: Any) -> None:
    for mode in ("RGB", "L", "CMYK"):
        image = encoded(smooth(30, 20, mode), format="JPEG", **options)
        assert score(picture, picture=[image])
        for fill in (1, 2):  # bytes of 0xff before a segment
            filled = base64.b64decode(image).replace(b"\xff\xdb", b"\xff" * fill + b"\xff\xdb", 1)
            again = base64.b64encode(filled).decode()
            assert score(picture, picture=[again]) == score(picture, picture=[image])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("AAAA", "picture"),
        ("", "picture"),
        ("a picture", "type"),
        ("AAA", "type"),
        ("é", "type"),
        (7, "type"),
        (None, "type"),
        (["AAAA"], "type"),
        (base64.b64encode(b"x" * 4_000_001).decode(), "too_long"),
        (base64.b64encode(png(50_000, 50_000, bytes(20_000_000))).decode(), "too_long"),
        (base64.b64encode(png(0, 9, b"")).decode(), "picture"),
        (base64.b64encode(png(2**31 - 1, 2**31 - 1, b"")).decode(), "too_long"),
        (base64.b64encode(png(40, 40, bytes(9))).decode(), "picture"),
        (encoded(smooth(30, 20), format="GIF"), "picture"),
        (encoded(smooth(30, 20), format="TIFF"), "picture"),
        (encoded(smooth(30, 20), format="PPM"), "picture"),
        (encoded(smooth(30, 20), format="JPEG")[:400], "picture"),
        (base64.b64encode(b"\xff\xd8" + b"\xff" * 100_000).decode(), "picture"),
        (base64.b64encode(b"\xff\xd8" + b"\xff\xe1\0\2" * 900_000).decode(), "picture"),
    ],
)
def test_a_broken_or_large_picture_is_refused(
    picture: scoring.Scorer, content: Any, code: str
) -> None:
    good = encoded(smooth(9, 9))
    assert refusal(picture, picture=[good, content]) == [("/instances/1/picture", code)]


def test_a_picture_of_a_million_segments_is_not_given_to_pillow(
    picture: scoring.Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("it was opened"))
    whole, comment = png(1, 1, bytes(4)), struct.pack(">I", 1) + b"tEXta" + bytes(4)
    for content in (
        b"\xff\xd8" + b"\xff\xe1\0\2" * 900_000,
        b"\xff\xd8" + b"\xff" * 3_900_000,
        whole[:33] + comment * 250_000 + whole[33:],
        whole[:-12] + comment * 250_000 + whole[-12:],
    ):
        violations = refusal(picture, picture=[base64.b64encode(content).decode()])
        assert violations == [("/instances/0/picture", "picture")]


def test_a_bomb_costs_no_memory(picture: scoring.Scorer) -> None:
    bomb = base64.b64encode(png(50_000, 50_000, bytes(20_000_000))).decode()
    assert len(bomb) < 30_000
    tracemalloc.start()
    try:
        refusal(picture, picture=[bomb])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_compressed_comments_of_a_png_do_not_unpack(picture: scoring.Scorer) -> None:
    whole = png(1, 1, bytes(4))
    data = b"k\0\0" + zlib.compress(bytes(50_000_000))
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + data))
    content = base64.b64encode(whole[:33] + chunk * 8 + whole[33:]).decode()
    tracemalloc.start()
    try:
        refusal(picture, picture=[content])
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_very_long_picture_is_refused_before_it_is_enlarged(folder: Path) -> None:
    scorer = scoring.load(packed(folder, "picture-cnn"))
    thin = encoded(Image.new("L", (60_000, 1)))
    assert refusal(scorer, picture=[thin]) == [("/instances/0/picture", "too_long")]


def test_exif_orientation_is_applied_where_the_contract_says_so(folder: Path) -> None:
    image, turned = smooth(30, 20), Image.Exif()
    turned[0x0112] = 6  # turn by 90 degrees clockwise to view
    rotated = image.transpose(Image.Transpose.ROTATE_90)
    options: dict[str, Any] = {"format": "PNG", "exif": turned}
    contract = '[features.picture.image]\nsize = [8, 8]\nmode = "L"\nexif_orientation = true\n'
    for stated, same in ((contract, image), ("", rotated)):
        scorer = scoring.load(packed(folder, "picture-flat", stated))
        assert score(scorer, picture=[encoded(rotated, **options)]) == score(
            scorer, picture=[encoded(same)]
        )


@pytest.mark.parametrize("path", ["/predict", "/invocations", "/v1/models/test:predict"])
def test_a_picture_is_a_whole_body(
    picture: scoring.Scorer, picture_app: Any, path: str, capsys: Any
) -> None:
    content = encoded(smooth(30, 20), format="JPEG")
    body = base64.b64decode(content)
    status, document = send(picture_app, body, path, **{"content-type": "image/jpeg"})
    assert status == 200, document
    (expected,) = score(picture, picture=[content])
    assert document["predictions"][0]["scores"] == expected["scores"]
    assert content[:40] not in capsys.readouterr().out  # the log policy of pictures is drop
    status, document = send(picture_app, b"\xff\xd8", path, **{"content-type": "image/png"})
    assert (status, document["errors"][0]["code"]) == (422, "picture")


def test_a_picture_is_logged_where_the_contract_says_so(folder: Path, capsys: Any) -> None:
    image = '[features.picture.image]\nsize = [8, 8]\nmode = "L"\n'
    directory = packed(folder, "picture-flat", f'[features.picture]\nlog_policy = "keep"\n{image}')
    handler = app.create(Settings(directory, log_payloads="full"))
    content = encoded(smooth(30, 20))
    body = json.dumps({"instances": [{"picture": content}]}).encode()
    status, document = send(handler, body, "/predict")
    assert status == 200, document
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["instances"] == [{"picture": content}]


def test_a_picture_is_the_body_of_a_job(
    folder: Path, picture: scoring.Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_store.Memory()
    store = memory_store.store(memory)
    monkeypatch.setattr(storage, "connect", lambda config: store)
    directory = packed(folder, "picture-flat")
    handler = app.create(Settings(directory, jobs_bucket="bucket", jobs_queue_url="queue"))
    content = encoded(smooth(30, 20), format="JPEG")
    headers = {"content-type": "image/jpeg"}
    status, document = send(handler, base64.b64decode(content), "/jobs", **headers)
    assert status == 202, document
    (body,) = [body for key, (body, *_) in memory.objects.items() if key.endswith("request.json")]
    assert picture.predict(body) == picture.predict(
        json.dumps({"instances": [{"picture": content}]})
    )
    for data, expected in ((b"\xff\xd8", 422), (bytes(picture.manifest.limits.body_bytes), 413)):
        assert send(handler, data, "/jobs", **headers)[0] == expected
    text = send(handler, b"x", "/jobs", **{"content-type": "text/plain"})
    assert text[0] == 415


def test_a_picture_is_no_body_of_another_contract(folder: Path) -> None:
    handler = app.create(Settings(packed(folder, "tokens-of-any-length")))
    body = base64.b64decode(encoded(smooth(30, 20)))
    for path in ("/predict", "/invocations"):
        assert send(handler, body, path, **{"content-type": "image/png"})[0] == 415


@pytest.mark.fault(
    "`inputs` with millions of numbers, to a contract of one column",
    "The rows are counted before each becomes a list: 283 MB were taken for 6 MB",
)
def test_the_rows_of_one_column_are_counted_before_they_are_lists(picture_app: Any) -> None:
    body = json.dumps({"inputs": [1] * 400_000}).encode()
    send(picture_app, b"{}", "/invocations")  # loads what is loaded once
    tracemalloc.start()
    try:
        status, document = send(picture_app, body, "/invocations")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (status, document["errors"][0]["code"]) == (422, "wrong_length")
    assert peak < 20 * len(body)


def test_pictures_are_bytes_of_v2(picture: scoring.Scorer, picture_app: Any) -> None:
    texts = [encoded(smooth(30 + i, 20)) for i in range(3)]
    arrays = {"picture": np.array([base64.b64decode(text) for text in texts], object)}
    status, document, outputs = protocols.ask(picture_app, protocols.as_binary(arrays))
    assert status == 200, document
    expected = [p["scores"] for p in score(picture, picture=texts)]
    assert np.allclose(outputs["scores"], expected)


def test_the_record_has_bins_of_brightness_contrast_and_size(picture: scoring.Scorer) -> None:
    names = [target.name for target in targets(picture.manifest)]
    assert names[:3] == ["picture.brightness", "picture.contrast", "picture.pixels"]
    black = picture.score(json.dumps({"instances": [{"picture": encoded(Image.new("L", (9, 9)))}]}))
    bins = Binner(picture.manifest).bin("1", black.columns, black.outputs).bins
    assert bins[:3] == [1, 1, 1]
    grey = image.Picture(b"", 2, np.array([[[51], [0]]], np.uint8))
    assert (grey.brightness, grey.contrast) == pytest.approx((0.1, 0.1))


# --- packing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "contract", "message"),
    [
        ("picture-flat", "[features.picture.image]\n", "state size"),
        ("picture-flat", "[features.picture.image]\nsize = [9, 9]\nmode = 'L'\n", "81 numbers"),
        ("picture-flat", "[features.picture.image]\nsize = [8, 8]\nmode = 'X'\n", "mode"),
        ("picture-flat", "[features.picture.image]\nsise = [8, 8]\n", "unknown key"),
        ("picture-cnn", "[features.picture.image]\nsize = [8, 8]\n", "not the graph's"),
        ("picture-cnn", "[features.picture.image]\nresize = 8\n", "smaller than the size"),
        ("picture-cnn", "[features.picture.image]\nmean = [1, 2]\n", "one number for each"),
        ("picture-cnn", "[features.picture.image]\nfilter = 'best'\n", "filter"),
        ("tokens-of-any-length", "[features.review.tokenizer]\nfile = 'x.json'\n", "x.json"),
        ("tokens-of-any-length", "[features.review.tokenizer]\nmax_tokens = 'x'\n", "max_tokens"),
        ("tokens-of-fixed-length", "[features.review.tokenizer]\nmax_tokens = 13\n", "over the"),
        ("picture-cnn", "[features.picture.tokenizer]\nfile = 'x.json'\n", "x.json"),
    ],
)
def test_a_contract_that_does_not_fit_the_graph_is_refused(
    tmp_path: Path, name: str, contract: str, message: str
) -> None:
    with pytest.raises(PackError, match=message):
        packed(tmp_path, name, contract)


def test_a_folder_of_pictures_is_a_sample(tmp_path: Path) -> None:
    paths = ZOO["picture-flat"].make(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(5):
        smooth(20 + i, 20).save(pictures / f"{i}.{('png', 'JPG', 'jpeg')[i % 3]}", "PNG")
    (pictures / "notes.txt").touch()
    options: Any = {"version": "1.0.0", "owner": "tests", "reason": "a test", "threads": 1}
    options |= {"contract": paths.contract, "artifacts": tmp_path / "artifacts"}
    result = pack(paths.model, pictures, name="test", **options)
    assert result.manifest.baseline
    assert result.manifest.baseline.rows == 5


def test_the_gateway_passes_pictures_as_bytes(folder: Path) -> None:
    directory = packed(folder, "picture-flat")
    template = plan.synthesise(directory.parent, directory.name, {})
    (api,) = (
        item["Properties"]
        for item in template["Resources"].values()
        if item["Type"] == "AWS::ApiGateway::RestApi"
    )
    assert api["BinaryMediaTypes"][2:] == ["image/jpeg", "image/png"]


def test_openapi_names_the_media_types_of_a_picture(folder: Path) -> None:
    for name, types in (
        ("picture-flat", {"image/jpeg", "image/png"}),
        ("tokens-of-any-length", set()),
    ):
        paths = json.loads((packed(folder, name) / "openapi.json").read_text())["paths"]
        contents = {
            path: set(paths[path]["post"]["requestBody"]["content"])
            for path in ("/predict", "/jobs", "/invocations")
        }
        assert contents["/predict"] == {"application/json", *types}
        assert contents["/jobs"] == {"application/json", *types}
        assert types <= contents["/invocations"]


def test_a_smaller_limit_of_pictures_is_a_major_change(picture: scoring.Scorer) -> None:
    (feature,) = picture.manifest.features
    assert feature.image
    smaller = feature._replace(image=feature.image._replace(max_pixels=100))
    changes = compatibility.changes(
        picture.manifest, picture.manifest._replace(features=(smaller,))
    )
    assert [change.level for change in changes] == [compatibility.MAJOR]


@pytest.mark.parametrize(("max_pixels", "is_taken"), [(99, False), (100, True)])
def test_a_picture_may_have_as_many_pixels_as_the_limit(
    picture: scoring.Scorer, max_pixels: int, is_taken: bool
) -> None:
    (feature,) = picture.manifest.features
    assert feature.image
    limited = feature._replace(image=feature.image._replace(max_pixels=max_pixels))
    kind = image.ImageType(limited, picture.manifest.inputs[0].dtype)
    text = encoded(Image.new("L", (10, 10)))
    if is_taken:
        assert kind.parse(text).pixels == 100
    else:
        with pytest.raises(PydanticCustomError) as error:
            kind.parse(text)
        assert error.value.type == "picture_pixels"


@pytest.mark.fault(
    "As many pictures as a request may hold, of as many pixels as each may have",
    "They are decoded in less than a second of CPU: pack limits the rows by their pixels",
)
def test_the_pixels_of_a_request_are_limited(picture: scoring.Scorer) -> None:
    limits, (feature,) = picture.manifest.limits, picture.manifest.features
    assert feature.image
    assert limits.rows * feature.image.max_pixels <= 2**26
