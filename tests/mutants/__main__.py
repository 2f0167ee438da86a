"""`python -m tests.mutants`: change handler/ and see whether a unit test fails.

A random sample of the mutations of tests/mutants/mutations.py. Each is tried in a copy of the tree,
in a process forked from one that has the libraries imported, with the unit tests that execute the
mutated line, the fastest first. mutmut takes no nested function and wraps each function, which the
tests of imports and stack traces notice. cosmic-ray starts a whole test run per mutation.

The first run executes all unit tests under coverage, to know which of them execute a line. `--keep`
uses that of the last run, where neither tests nor handler have changed.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest

from tests.mutants.mutations import Mutation, find_mutations

ROOT = Path(os.environ.get("MUTANTS_ROOT", Path.cwd()))
FOLDER = ROOT / "build/mutants"
TREE = FOLDER / "tree"  # a copy, so that no mutation is ever in the work tree
COVERAGE, SECONDS = FOLDER / "coverage.sqlite", FOLDER / "seconds.json"
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("handler/**/*.py"))
LIBRARIES = ("botocore.session", "boto3", "hypothesis.strategies", "moto", "numpy", "onnx.helper")
TIMEOUT = 300  # seconds of wall time, for a mutant that loops
MAX_BYTES = 16 << 30  # of address space, for a mutant that allocates
KILLED = 0.92  # that a sample must reach
PYTEST = ["-p", "no:cacheprovider", "-p", "no:xdist", "-x", "-q", "--no-header", "--tb=no"]


def copy_tree() -> None:
    """Copy what git has, or would add."""
    shutil.rmtree(TREE, ignore_errors=True)
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, TREE / name)


class Seconds:
    """A pytest plugin that keeps how long each test takes."""

    def __init__(self) -> None:
        self.by_test: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.by_test[report.nodeid] = self.by_test.get(report.nodeid, 0) + report.duration


def measure_coverage() -> int:
    """Write which test executes which line, and how long each test takes; return pytest's code."""
    COVERAGE.unlink(missing_ok=True)
    os.environ["COVERAGE_FILE"] = str(COVERAGE)
    plugin = Seconds()
    options = ["--cov=handler", "--cov-context=test", "--cov-report=", "-p", "no:xdist"]
    code = pytest.main(["tests/unit", "-q", "-p", "no:cacheprovider", *options], plugins=[plugin])
    SECONDS.write_text(json.dumps(plugin.by_test))
    return int(code)


def read_coverage() -> dict[str, dict[int, list[str]]]:
    """Return the tests that execute a line, the fastest first, by module and line."""
    from coverage.numbits import numbits_to_nums

    seconds = json.loads(SECONDS.read_text())
    query = """SELECT file.path, context.context, numbits FROM line_bits
        JOIN file ON file.id = file_id JOIN context ON context.id = context_id"""
    tests: dict[str, dict[int, list[str]]] = {}
    with sqlite3.connect(COVERAGE) as database:
        for path, context, numbits in database.execute(query):
            test = context.rpartition("|")[0]
            lines = tests.setdefault(Path(path).relative_to(TREE).as_posix(), {})
            for line in numbits_to_nums(numbits) if test else ():
                lines.setdefault(line, []).append(test)
    for lines in tests.values():
        for line, names in lines.items():
            lines[line] = sorted(set(names), key=lambda name: seconds.get(name, 0))
    return tests


def tests_of(mutation: Mutation, lines: dict[int, list[str]]) -> list[str]:
    """Return the tests that execute a mutated line; of a line that an import executes, the
    module's.
    """
    names: Iterable[str] = [
        name
        for line in range(mutation.line, mutation.last_line + 1)
        for name in lines.get(line, ())
    ]
    return [*dict.fromkeys(names or (name for tests in lines.values() for name in tests))]


def survives(module: str, mutation: Mutation, tests: list[str], number: int) -> bool:
    """Return whether all tests pass with a mutation."""
    path = TREE / module
    source = path.read_bytes()
    path.write_bytes(mutation.apply(source))
    # a second of its own, by which a .pyc is known to be another version's
    os.utime(path, (number, number))
    try:
        pid = os.fork()
        if pid == 0:
            os._exit(_run(tests))
        return _wait(pid) == 0
    finally:
        path.write_bytes(source)


def _run(tests: list[str]) -> int:
    """Run the tests in a forked process; return 0 if all of them pass."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        return int(pytest.main([*PYTEST, *tests]))
    except BaseException:
        return 1


def _wait(pid: int) -> int:
    """Return a child's exit code, 1 for one that was killed because it did not end."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        finished, status = os.waitpid(pid, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="mutations of the sample")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the sample")
    parser.add_argument("--only", default="handler/", help="the beginning of the modules' paths")
    parser.add_argument("--keep", action="store_true", help="the coverage of the last run")
    args = parser.parse_args()
    keep = args.keep and COVERAGE.exists()
    if Path.cwd() != TREE:  # again, with all modules of the copy
        if not keep:
            copy_tree()
        environ = {**os.environ, "MUTANTS_ROOT": str(ROOT), "PYTHONPATH": str(TREE)}
        os.chdir(TREE)
        os.execve(sys.executable, [sys.executable, "-m", "tests.mutants", *sys.argv[1:]], environ)
    if not keep:
        pid = os.fork()  # whose imports of handler/ do not reach the mutants
        if pid == 0:
            os._exit(measure_coverage())
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("the unit tests fail without a mutation")
    for library in LIBRARIES:
        import_module(library)
    covered = read_coverage()
    mutations = [
        (module, mutation)
        for module in MODULES
        if module.startswith(args.only)
        for mutation in find_mutations((TREE / module).read_bytes())
    ]
    sample = random.Random(args.seed).sample(mutations, min(args.count, len(mutations)))
    survivors = 0
    for number, (module, mutation) in enumerate(sample, 1):
        tests = tests_of(mutation, covered.get(module, {}))
        if not tests or survives(module, mutation, tests, number):
            survivors += 1
            place = f"{module}:{mutation.line}"
            print(
                f"{place}: {mutation.before} -> {mutation.after} ({len(tests)} tests)", flush=True
            )
    killed = 1 - survivors / len(sample)
    print(f"{len(sample) - survivors} of {len(sample)} killed ({killed:.1%}), seed {args.seed}")
    sys.exit(killed < KILLED)


if __name__ == "__main__":
    main()
