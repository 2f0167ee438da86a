"""The answers that the files of events/ must get, wherever the handler runs."""

import json
from pathlib import Path
from typing import Any

import pytest

EVENTS = Path(__file__).parents[1] / "events"


def names(kind: str) -> list[str]:
    """`good/…` or `bad/…`, one for each file."""
    return sorted(f"{kind}/{path.stem}" for path in (EVENTS / kind).glob("*.json"))


def event(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text())


def stated() -> dict[str, dict[str, Any]]:
    """What each event must get, by its name."""
    answers: dict[str, dict[str, Any]] = json.loads((EVENTS / "answers.json").read_text())
    return answers


def check(name: str, answer: dict[str, Any]) -> None:
    """That a proxy answer is the one that events/answers.json states."""
    want = stated()[name]
    assert answer["statusCode"] == want["status"], answer
    body = json.loads(answer["body"])
    for prediction in body.get("predictions", ()):
        assert len(prediction.pop("id")) == 52  # never the same twice
    if "body" in want:
        assert close(body, want["body"]), body
    for key, value in want.get("contains", {}).items():
        assert body[key] == value
    if name.startswith("bad/"):
        headers = answer.get("headers") or {k: v[0] for k, v in answer["multiValueHeaders"].items()}
        assert headers["content-type"] == "application/problem+json"
        assert body["type"] == want["type"]
        told = [{"pointer": e["pointer"], "code": e["code"]} for e in body.get("errors", [])]
        assert told == want.get("errors", [])
        assert headers.get("allow") == want.get("allow")


def close(found: Any, expected: Any) -> bool:
    """Equal, but for the last digits of floats, which differ between processors."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[k], expected[k]) for k in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return bool(found == pytest.approx(expected, rel=1e-5))
    return bool(found == expected)
