"""Check the rules of names and prose in CONTRIBUTING.md.

Vale would be the usual tool. Its package downloads a binary when it first runs, so it cannot be
locked by hash, and this test takes its place.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("handler", "infra", "answerable")
MAX_WORDS = 25
REJECTED = re.compile(
    r"\b(whoever|nobody's|(?:is|are|was|were) told|tells? of|mend(?:s|ed|ing)?|anew|amiss|as ever"
    r"|of ours|(?:stand|come)s? of|stands? for|way back|cr(?:y|ies|ied)|rots?|the machine's mood"
    r"|cries wolf|the door|whom|whose turn|perhaps)\b",
    re.IGNORECASE,
)
BANNED_NAMES = frozenset(
    (
        *("told", "found", "known", "part", "parts", "place", "at", "asked", "given", "made"),
        *("wanted", "own", "mine", "each", "what", "loud", "few", "most", "least", "hole"),
    )
)
FIRST_LINE = re.compile(r"(What|Whether|That|The same|As|How|When|Where|Who)\b")
NOT_IMPERATIVE = re.compile(r"(The|An?|All|Every|Each|Minutes|Returns|Raises|Yields|[A-Z]\w*'s)\b")


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def pages() -> list[Path]:
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*named, ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]


def comments_and_docstrings(path: Path) -> Iterator[tuple[int, str]]:
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the docstring of each function that has one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield node.lineno, text


def assigned_names(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def sentences(page: Path) -> Iterator[str]:
    """Yield the sentences of paragraphs and list items, without code, tables and links."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#>|:]|\d+\.)\s)", text):
        if not block.lstrip().startswith(("|", "#", "!!!", "???")):
            yield from re.split(r"(?<=[.!?:;])\s+", " ".join(block.split()))


def problems_of_module(path: Path) -> list[str]:
    problems = [
        f"line {line}: {match[0]!r}"
        for line, text in comments_and_docstrings(path)
        for match in REJECTED.finditer(text)
    ]
    problems += [
        f"line {line}: the docstring begins with {match[0]!r}"
        for line, text in comments_and_docstrings(path)
        if not text.startswith("#") and (match := FIRST_LINE.match(text))
    ]
    problems += [
        f"line {line}: the docstring begins with {match[0]!r}, not with a verb"
        for line, text in functions(path)
        if (match := NOT_IMPERATIVE.match(text))
    ]
    problems += [
        f"line {line}: the name {name!r}"
        for line, name in assigned_names(path)
        if name in BANNED_NAMES
    ]
    return problems


def problems_of_page(page: Path) -> list[str]:
    problems = [match[0] for match in REJECTED.finditer(page.read_text(encoding="utf-8"))]
    problems += [sentence for sentence in sentences(page) if len(sentence.split()) > MAX_WORDS]
    return problems


def problems_of(path: Path) -> list[str]:
    return problems_of_module(path) if path.suffix == ".py" else problems_of_page(path)


@pytest.mark.parametrize(
    "path", [*modules(), *pages()], ids=lambda path: str(path.relative_to(ROOT))
)
def test_names_and_prose_are_plain_and_standard(path: Path) -> None:
    assert not problems_of(path)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
