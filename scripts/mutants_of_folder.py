"""mutmut in the folder of an area, for scripts/mutants.py. What has a result keeps it, also where names are given. A mutant is
asked of all tests of the files that call its function, as what a fixture of many tests calls counts as called by the first.

It imports nothing of the program, which must come from mutmut's copy.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    # As with python -m mutmut.
    sys.path[0] = str(Path.cwd())
    mutmut: Any = importlib.import_module("mutmut.__main__")
    collect, choose = mutmut.collect_or_load_stats, mutmut.collect_source_file_mutation_data

    def collect_and_widen(*args: Any, **named: Any) -> None:
        collect(*args, **named)
        state = mutmut.state()
        files: dict[str, set[str]] = {}
        for test in state.duration_by_test:
            files.setdefault(test.partition("::")[0], set()).add(test)
        for tests in state.tests_by_mangled_function_name.values():
            tests |= set[str]().union(*(files.get(test.partition("::")[0], ()) for test in tests))

    def choose_what_is_left(*, mutant_names: list[str]) -> Any:
        mutants, data = choose(mutant_names=mutant_names)
        return [one for one in mutants if one[2] is None], data

    mutmut.collect_or_load_stats = collect_and_widen
    mutmut.collect_source_file_mutation_data = choose_what_is_left
    jobs, *names = sys.argv[1:]
    mutmut._run(names, int(jobs))


if __name__ == "__main__":
    main()
