"""mutmut in the folder of an area, for scripts/mutants.py. What has a result keeps it, also where names are given. A mutant is
asked of all tests of the files that call its function, as what a fixture of many tests calls counts as called by the first.
The files whose tests take least come first, where mutmut has a set's order: most mutants are noticed there.

It imports nothing of the program, which must come from mutmut's copy.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def main() -> None:
    # As with python -m mutmut.
    sys.path[0] = str(Path.cwd())
    mutmut: Any = importlib.import_module("mutmut.__main__")
    collect, choose, make_runner = (
        mutmut.collect_or_load_stats,
        mutmut.collect_source_file_mutation_data,
        mutmut.get_mutant_runner,
    )
    files: dict[str, set[str]] = {}
    seconds: dict[str, float] = {}

    def collect_and_widen(*args: Any, **named: Any) -> None:
        collect(*args, **named)
        state = mutmut.state()
        for test, took in state.duration_by_test.items():
            files.setdefault(file_of(test), set()).add(test)
            seconds[file_of(test)] = seconds.get(file_of(test), 0) + took
        for tests in state.tests_by_mangled_function_name.values():
            tests |= set[str]().union(*(files.get(file_of(test), ()) for test in tests))

    def choose_what_is_left(*, mutant_names: list[str]) -> Any:
        mutants, data = choose(mutant_names=mutant_names)
        return [one for one in mutants if one[2] is None], data

    def make_runner_in_order(*args: Any) -> Any:
        runner = make_runner(*args)
        submit = runner.submit

        def submit_in_order(mutant: str, tests: Iterable[str], *limits: Any) -> None:
            submit(mutant, sorted(tests, key=lambda test: (seconds[file_of(test)], test)), *limits)

        runner.submit = submit_in_order
        return runner

    mutmut.collect_or_load_stats = collect_and_widen
    mutmut.collect_source_file_mutation_data = choose_what_is_left
    mutmut.get_mutant_runner = make_runner_in_order
    jobs, *names = sys.argv[1:]
    mutmut._run(names, int(jobs))


def file_of(test: str) -> str:
    return test.partition("::")[0]


if __name__ == "__main__":
    main()
