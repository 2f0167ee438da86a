"""Pages of `answerable serve` in a real browser, of a manifest that is hostile."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.fixtures import artifact
from tests.fixtures.artifact import ECHO_FEATURES
from tests.fixtures.server import serve

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), "")
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--virtual-time-budget=20000", "--dump-dom"),
]
HOSTILE = """SEEN <img src=x onerror="document.title='RUN'">
<script>document.title='RUN'</script> [link](javascript:document.title='RUN')
<a href="javascript:alert(1)">x</a> <svg onload="document.title='RUN'"></svg>
<iframe srcdoc="<script>parent.document.title='RUN'</script>"></iframe>"""


class Elements(HTMLParser):
    """The elements of a page that run something of the description, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.running: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, value in attrs if name in ("onerror", "onload", "srcdoc")]
        links = [value for name, value in attrs if (value or "").startswith("javascript:")]
        if names or links or tag == "iframe":
            self.running.append(self.get_starttag_text() or tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_runs_is_noticed() -> None:
    page = Elements(HOSTILE)
    assert len(page.running) == 4
    assert "SEEN" in page.text


@pytest.mark.fault(
    "A manifest whose descriptions are HTML and Markdown with scripts, in a real browser",
    "The start page and Swagger UI show them and run nothing",
)
@pytest.mark.skipif(not BROWSER, reason="needs Chromium or Chrome")
@pytest.mark.slow
def test_descriptions_run_nothing(tmp_path: Path) -> None:
    features = [{**feature, "description": HOSTILE} for feature in ECHO_FEATURES]
    directory = artifact.echo(tmp_path / "echo", description=HOSTILE, features=features)
    with serve(directory) as address:
        for path in ("/", "/docs"):
            command = [BROWSER, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"]
            run = subprocess.run(
                [*command, f"http://{address}{path}"],
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            page = Elements(run.stdout)
            assert "SEEN" in page.text, path
            assert "<title>RUN" not in run.stdout
            assert page.running == []
