"""`python -m tests.mutants`: change handler/ and see whether a unit test fails.

A random sample of the mutations of tests/mutants/mutations.py. Each is tried in a copy of the tree,
in a process forked from one that has the libraries imported, with the unit tests that execute the
mutated line, the fastest first. mutmut takes no nested function and wraps each function, which the
tests of imports and stack traces notice. cosmic-ray starts a whole test run per mutation.

The first run executes all unit tests under coverage, to know which of them execute a line. `--keep`
uses that of the last run, where neither tests nor handler have changed.
"""

import argparse
import ast
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
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest

from tests.mutants.mutations import Mutation, find_mutations

ROOT = Path(os.environ.get("MUTANTS_ROOT", Path.cwd()))
FOLDER = ROOT / "build/mutants"
TREE = FOLDER / "tree"  # a copy, so that no mutation is ever in the work tree
COVERAGE, SECONDS = FOLDER / "coverage.sqlite", FOLDER / "seconds.json"
LIBRARIES = ("boto3", "moto", "numpy", "onnx.helper", "pydantic_core", "scipy.stats")
CPU_SECONDS, WALL_SECONDS = 120, 900  # for a mutant that loops, or waits
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


def tests_of(module: str, mutation: Mutation, lines: dict[int, list[str]]) -> list[list[str]]:
    """Return the tests that execute a mutated line, first those of the file that is named alike.

    A line that an import executes, whichever test was the first to import it, has all tests of its
    module.
    """
    functions = (
        node
        for node in ast.walk(ast.parse((TREE / module).read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.Lambda)
    )
    is_in_function = any(
        node.lineno <= mutation.line <= (node.end_lineno or 0) for node in functions
    )
    names: Iterable[str] = [
        name
        for line in range(mutation.line, mutation.last_line + 1)
        for name in (lines.get(line, ()) if is_in_function else ())
    ]
    tests = [*dict.fromkeys(names or (name for tests in lines.values() for name in tests))]
    files = Counter(test.partition("::")[0] for test in tests)
    stem = Path(module).stem.strip("_")
    first = max(files, key=lambda file: (stem in file, files[file]), default="")
    own = [test for test in tests if test.startswith(f"{first}::")]
    return [part for part in (own, [test for test in tests if test not in {*own}]) if part]


class FirstFailure:
    """A pytest plugin that writes the first test that fails, or the file that cannot be loaded."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self._descriptor, f"{report.nodeid}\n".encode())

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            os.write(self._descriptor, f"{report.nodeid}\n".encode())


def mutate(module: str, mutation: Mutation, tests: list[list[str]], number: int) -> str:
    """Return the first test that fails with a mutation; "" if all pass."""
    path = TREE / module
    source = path.read_bytes()
    path.write_bytes(mutation.apply(source))
    # a second of its own, by which a .pyc is known to be another version's
    os.utime(path, (number, number))
    try:
        return next(filter(None, map(first_failure, tests)), "")
    finally:
        path.write_bytes(source)


def first_failure(tests: list[str]) -> str:
    """Return the first test that fails in a forked process, or why that ended; "" if all pass."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os._exit(_run(tests, writing))
    os.close(writing)
    code = _wait(pid)
    with open(reading) as pipe:
        failed = pipe.readline().strip()
    if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        return tests[0]  # not collected; the last check shows whether it is without a mutation
    return (failed or f"it ended with {code}") if code else ""


def _run(tests: list[str], descriptor: int) -> int:
    """Run the tests in a forked process; return pytest's code."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    try:
        return int(pytest.main([*PYTEST, *tests], plugins=[FirstFailure(descriptor)]))
    except BaseException:
        return 1


def _wait(pid: int) -> int:
    """Return a child's exit code, 1 for one that was killed because it did not end."""
    end = time.monotonic() + WALL_SECONDS
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
        for path in sorted(TREE.glob("handler/**/*.py"))
        if (module := path.relative_to(TREE).as_posix()).startswith(args.only)
        for mutation in find_mutations(path.read_bytes())
    ]
    sample = random.Random(args.seed).sample(mutations, min(args.count, len(mutations)))
    survivors, killers = 0, []
    for number, (module, mutation) in enumerate(sample, 1):
        tests = tests_of(module, mutation, covered.get(module, {}))
        if killer := mutate(module, mutation, tests, number):
            killers.append(killer)
            print(f"{number} killed by {killer}", file=sys.stderr, flush=True)
            continue
        survivors += 1
        place = f"{module}:{mutation.line}"
        print(
            f"{place}: {mutation.before} -> {mutation.after} ({sum(map(len, tests))} tests)",
            flush=True,
        )
    named = sorted({killer for killer in killers if "::" in killer})
    if failed := first_failure(named):
        raise SystemExit(f"{failed} fails without a mutation too")
    killed = 1 - survivors / len(sample)
    print(f"{len(killers)} of {len(sample)} killed ({killed:.1%}), seed {args.seed}")
    sys.exit(killed < KILLED)


if __name__ == "__main__":
    main()
