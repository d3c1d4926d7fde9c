"""Mutation testing: changes the program a little, in one place at a time, and asks the quick tests whether they notice.

make mutants                              everything; one that was stopped goes on where it was
make mutants ARGS="gate plan"             some areas
make mutants ARGS="--since main"          the functions that a branch changed, in a few minutes
make mutants ARGS="host --tenth 3"        a sample: of each function every tenth mutant, here those whose number ends in 3

mutmut makes all mutants of a file at once, imports everything once, and for each mutant forks and runs only the tests that call
the changed function. It keeps results, and runs in parallel. cosmic-ray, the other kept tool, changes what mutmut does not:
tables of a module and decorated functions. But it starts pytest and Pulumi anew for each mutant, for seconds where a fork takes
none, and is parallel only over checkouts of their own. Tables are held by tests written by hand instead, such as
tests/plan/test_access.py and tests/host/test_units.py.
Exit status: 0 each area has the score that is wanted of it, 1 not.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud.paths import REPOSITORY, cache_dir


@dataclass(frozen=True)
class Area:
    """files: patterns of what is changed. tests: what is asked. wanted: noticed of 100 mutants that are not equivalent.
    without: patterns of what of the files is not changed."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    wanted: float
    without: tuple[str, ...] = ()


AREAS = {
    "gate": Area(("ops/gate.py",), ("tests/ops/test_judgements.py",), 95),
    "exports": Area(("outputs.py",), ("tests/components/test_contract.py",), 95),
    "plan": Area(("plan/*.py",), ("tests/plan",), 95),
    "components": Area(("components/*.py", "config.py"), ("tests/components",), 85),
    "ops": Area(("ops/*.py",), ("tests/ops", "tests/components/test_drain.py", "tests/host/test_weave.py"), 85),
    "render": Area(("host/render.py", "host/package.py"), ("tests/host/test_render.py", "tests/host/test_host_files.py"), 85),
    # The edge's programs and the one that user-data carries run in processes of their own, which know nothing of mutants; and a
    # changed program is too large for user-data, and imports mutmut, which hosts do not have.
    "host": Area(
        ("host/apollo/*.py",),
        (
            "tests/host",
            "tests/plan/test_existing.py",
            *(f"--ignore=tests/host/test_{name}.py" for name in ("edge", "parameters", "render", "host_files")),
        ),
        85,
        without=("host/apollo/edge/*.py", "host/apollo/parameters.py"),
    ),
    "refusals": Area(
        ("localcloud/api/refusals.py", "localcloud/api/texts.py"),
        ("tests/localcloud/test_refusals.py", "tests/components/test_aws_takes.py"),
        90,
    ),
}
# A mutant is equivalent where its lines are the program's own once these are gone from both; and why.
EQUIVALENT: tuple[tuple[str, str], ...] = (
    (r"""(help|metavar|description|prog|epilog)=(None|f?"[^"]*")""", "words of a help text are for a reader"),
    (r"cast\((\[[^\]]*\]|[^,\[])*,", "a cast is for the type checker"),
    (r", strict=(False|None)", "a zip is not strict by itself"),
    (r"check=(False|None)", "a run does not check by itself"),
    (r"indent=(None|\d)", "a reader of JSON takes any indentation"),
    (r"""prefix=(None|"[^"]*")""", "a temporary folder may have any name"),
    (r"""(?<=", name), (None, )?(opts|None)?\)""", "the program gives options to no component that has no inputs"),
    (r"token_urlsafe\((32|None)?\)", "its default is 32 bytes"),
)
# Functions that run while modules are imported, which is once, before any mutant is. What they made is in tables, which tests
# hold by tables written by hand: tests/plan/test_access.py, tests/components/test_aws_takes.py.
IMPORTED = re.compile(r"(plan\.rules\.x__(tcp|udp)|localcloud\.api\.texts\.x__(of|strict))__")
# Where mutmut keeps which test calls what.
STATS = "mutmut-stats.json"
_NOTICED = ("killed", "timeout", "segfault")
_MISSED = ("survived", "no tests")


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("areas", nargs="*", metavar="AREA", help=f"of {', '.join(AREAS)} (default: all)")
    asked.add_argument("--since", metavar="COMMIT", help="only functions that were changed since the branch left this")
    asked.add_argument("--tenth", type=int, choices=range(10), metavar="DIGIT", help="only mutants whose number ends in this")
    asked.add_argument("--jobs", type=int, default=os.cpu_count() or 2, help="mutants at a time (default: one a processor)")
    given = asked.parse_args()
    if unknown := sorted({*given.areas} - AREAS.keys()):
        asked.error(f"no area is called {', '.join(unknown)}; there are: {', '.join(AREAS)}")
    changed = changes(given.since) if given.since else None
    good = True
    for name in given.areas or AREAS:
        names = None if changed is None else [one for file in changed if covers(name, file) for one in functions(file, changed)]
        if names == []:
            continue
        if given.tenth is not None:
            names = [one.replace("__mutmut_*", f"__mutmut_*{given.tenth}") for one in names or ["*__mutmut_*"]]
        folder = prepare(name)
        argv = [sys.executable, str(REPOSITORY / "scripts" / "mutants_of_folder.py"), str(given.jobs), *(names or ())]
        # A terminal is shown how far it is, which fills a file with thousands of lines.
        with (folder / "mutmut.log").open("w") as log:
            out = None if sys.stdout.isatty() else log
            status = subprocess.run(argv, cwd=folder, stdout=out, check=False).returncode
        if status:
            last = (folder / "mutmut.log").read_text().replace("\r", "\n")[-3000:]
            print(
                f"{last}\n{name}: mutmut ended with {status}; these tests must pass with the program as it is", file=sys.stderr
            )
            return 1
        with contextlib.chdir(folder):
            good &= report(name, names)
    return 0 if good else 1


def covers(name: str, file: str) -> bool:
    area = AREAS[name]
    return any(fnmatch.fnmatch(file, one) for one in area.files) and not any(fnmatch.fnmatch(file, one) for one in area.without)


def prepare(name: str) -> Path:
    """A copy of the checkout, beside which mutmut keeps what it found. What did not change keeps its result."""
    folder = cache_dir() / "mutants" / str(REPOSITORY).replace("/", "%") / name
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    sources = {path for path in listed.split("\0") if path and (REPOSITORY / path).is_file()}
    tests_changed = False
    for path in sources:
        target, content = folder / path, (REPOSITORY / path).read_bytes()
        if not target.exists() or target.read_bytes() != content:
            tests_changed |= path.startswith("tests/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            shutil.copymode(REPOSITORY / path, target)
    copied = folder / "mutants"
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        inside = path.relative_to(copied if copied in path.parents else folder).as_posix()
        if inside not in sources and path.suffix != ".meta" and path.name != STATS:
            path.unlink()
    if tests_changed:
        ask_again(folder)
    packages = sorted({path.split("/")[0] for path in sources if covers(name, path)})
    settings = {
        "source_paths": packages,
        "only_mutate": [*AREAS[name].files],
        "do_not_mutate": [*AREAS[name].without],
        "also_copy": sorted({path.split("/")[0] for path in sources} - {*packages}),
        "pytest_add_cli_args": ["-m", "not engine and not machines", "-p", "no:cacheprovider", "-q"],
        "pytest_add_cli_args_test_selection": [*AREAS[name].tests],
        # A test's time is without what is set up once for many, and without what else the machine has to do.
        "timeout_constant": 10.0,
        # Pulumi's and gRPC's threads do not outlive a fork.
        "process_isolation": "forkserver",
    }
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    (folder / "pyproject.toml").write_text(f"{(REPOSITORY / 'pyproject.toml').read_text()}\n[tool.mutmut]\n{text}")
    return folder


def ask_again(folder: Path) -> None:
    """Forgets which mutants no test noticed, and which test calls what."""
    (folder / "mutants" / STATS).unlink(missing_ok=True)
    for meta in (folder / "mutants").rglob("*.meta"):
        known = json.loads(meta.read_text())
        known["exit_code_by_key"] = {
            key: None if status(code) in _MISSED else code for key, code in known["exit_code_by_key"].items()
        }
        meta.write_text(json.dumps(known))


def git(*argv: str) -> str:
    return subprocess.run(["git", *argv], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def changes(since: str) -> dict[str, set[int]]:
    """Python file → the lines that the branch and the work on it changed."""
    base = git("merge-base", since, "HEAD").strip()
    found: dict[str, set[int]] = {}
    file = ""
    for line in git("diff", "--unified=0", "--no-color", base, "--", "*.py").splitlines():
        if line.startswith("+++ "):
            file = line.removeprefix("+++ b/")
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first, count = int(hunk[1]), int(hunk[2] or 1)
            found.setdefault(file, set()).update(range(first, first + max(count, 1)))
    return {file: lines for file, lines in found.items() if (REPOSITORY / file).is_file()}


def functions(file: str, changed: Mapping[str, set[int]]) -> Iterator[str]:
    """Patterns of mutmut's names for the mutants of the functions that have changed lines."""
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for node in ast.parse((REPOSITORY / file).read_text()).body:
        prefix = f"xǁ{node.name}ǁ" if isinstance(node, ast.ClassDef) else "x_"
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.decorator_list:
                lines = range(inner.lineno, (inner.end_lineno or 0) + 1)
                if not changed[file].isdisjoint(lines):
                    yield f"{module}.{prefix}{inner.name}__mutmut_*"


def status(code: int | None) -> str:
    from mutmut.stats import status_by_exit_code

    return status_by_exit_code[code]


def report(name: str, names: Sequence[str] | None) -> bool:
    """Prints the score and what no test noticed; gives whether it is the wanted score. names: which mutants count, all by
    default. Runs in the area's folder."""
    from mutmut.configuration import reset_config
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    reset_config()
    counts, same = dict.fromkeys(("noticed", "missed", "left"), 0), 0
    for meta in sorted(Path("mutants").rglob("*.meta")):
        results: dict[str, Any] = json.loads(meta.read_text())["exit_code_by_key"]
        for mutant, code in results.items():
            if IMPORTED.match(mutant) or (names is not None and not any(fnmatch.fnmatch(mutant, one) for one in names)):
                continue
            found = status(code)
            kind = "noticed" if found in _NOTICED else "missed" if found in _MISSED else "left"
            if kind == "missed":
                text = get_diff_for_mutant(mutant, path=meta.relative_to("mutants").with_suffix(""))
                lines = [line for line in text.splitlines() if re.match(r"[-+](?![-+])", line)]
                if equivalent(lines):
                    same += 1
                    continue
                print(f"\n{found}: {mutant}\n" + "\n".join(lines))
            counts[kind] += 1
    judged = counts["noticed"] + counts["missed"]
    score = 100 * counts["noticed"] / judged if judged else 100.0
    rest = f"{same} equivalent, {counts['left']} not tried"
    print(f"{name}: {score:.1f} % of {judged} mutants noticed ({rest}), wanted {AREAS[name].wanted:g} %", flush=True)
    return score >= AREAS[name].wanted


def equivalent(difference: Sequence[str]) -> bool:
    """difference: the lines that a mutant takes away and brings, which begin with - and +."""

    def lean(sign: str) -> str:
        text = "".join(line[1:] for line in difference if line[0] == sign)
        for pattern, _ in EQUIVALENT:
            text = re.sub(pattern, "", text)
        return re.sub(r",(?=[,)]|$)", "", re.sub(r"\s", "", text))

    return lean("-") == lean("+")


if __name__ == "__main__":
    sys.exit(main())
