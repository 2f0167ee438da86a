"""Whatever the OpenAPI document allows or forbids: no 5xx, and no answer that it does not state."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from handler import app
from tests.fixtures import server
from tests.fixtures.artifact import echo

pytestmark = pytest.mark.slow
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    directory: Path = echo(tmp_path_factory.mktemp("echo"))
    with server.serve(directory) as address:
        yield schemathesis.openapi.from_url(f"http://{address}/openapi.json")


# batches need Step Functions, which no local server has: its document leaves them out
SERVED = {path: methods for path, methods in app.ROUTES.items() if "/batches" not in path}


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, methods in SERVED.items() for method in methods]
)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_in_the_document(schema: Any, path: str, method: str, mode: Any) -> None:
    @given(schema[path][method].as_strategy(generation_mode=mode))
    @hypothesis_settings(
        max_examples=80,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    # of a GET there may be nothing that could be wrong, not even its {parts}
    harmless = mode is GenerationMode.NEGATIVE and method == "GET"
    if not harmless:
        ask()
    elif "{" in path:
        with contextlib.suppress(Unsatisfiable):
            ask()
