"""docs/reference/account.md says what the template has."""

from tests.docs import account
from tests.infra.conftest import Synth


def test_the_page_is_the_template_s(synth: Synth) -> None:
    written = account.PAGE.read_text(encoding="utf-8")
    assert written == account.page(synth), "python -m tests.docs account"
