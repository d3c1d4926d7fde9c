"""`completion`: prints what makes bash or zsh complete the commands, and answers what the shells then ask.

A shell runs `./apollo complete WORD …` with the words so far, the last of which is to be completed. It gets a word a line,
with what it is for after a tab, or exit status 3 where it is to complete a path itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from localcloud import cli

PATHS = 3
SCRIPTS = {
    "bash": """\
_apollo() {
    local words cur=${COMP_WORDS[COMP_CWORD]}
    words=$("${COMP_WORDS[0]/#~/$HOME}" complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [ $? = 3 ]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    elif [ -n "$words" ]; then
        mapfile -t COMPREPLY < <(cut -f1 <<<"$words")
    fi
}
complete -F _apollo apollo
""",
    "zsh": """\
_apollo() {
    local words_found state
    local -a found
    words_found=$(${~words[1]} complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    state=$?
    if [[ $state = 3 ]]; then
        _files
    elif [[ -n $words_found ]]; then
        found=("${(@f)${words_found//:/\\\\:}}")
        found=("${(@)found//$'\\t'/:}")
        _describe apollo found
    fi
}
compdef _apollo apollo
""",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: source <(./apollo completion bash)"
    parser.add_argument("shell", choices=sorted(SCRIPTS))


def run(args: argparse.Namespace) -> int:
    print(SCRIPTS[args.shell], end="")
    return 0


def complete(words: Sequence[str]) -> int:
    """Prints what the last of the words may become; gives the exit status for the shell."""
    *before, begun = words or [""]
    stack = next((value for option, value in pairwise(before) if option == "--stack"), "local")
    found = _candidates(cli.parser(before), before, begun, stack)
    if found is None:
        return PATHS
    for word, about in found.items():
        if word.startswith(begun):
            print(f"{word}\t{about}" if about else word)
    return 0


def _candidates(parser: argparse.ArgumentParser, before: Sequence[str], begun: str, stack: str) -> Mapping[str, str] | None:
    """Word → what it is for; None for a path."""
    actions = cast(list[argparse.Action], vars(parser)["_actions"])
    options = {option: action for action in actions for option in action.option_strings}
    places = [action for action in actions if not action.option_strings]
    words = list(before)
    while words:
        word = words.pop(0)
        if word in options and options[word].nargs != 0:
            if not words:
                return _values(options[word], stack)
            words.pop(0)
        elif places and not word.startswith("-"):
            choices = places[0].choices
            if isinstance(choices, dict):  # verbs, each with a parser
                verb = cast(dict[str, argparse.ArgumentParser], choices).get(word)
                return {} if verb is None else _candidates(verb, words, begun, stack)
            if _is_ops(parser):
                return _of_ops([word, *words], begun, stack)
            if places[0].nargs is None:
                del places[0]
    if begun.startswith("-"):
        return {option: action.help or "" for option, action in options.items() if option.startswith("--")}
    if _is_ops(parser):
        return _of_ops([], begun, stack)
    return _values(places[0], stack) if places else {}


def _is_ops(parser: argparse.ArgumentParser) -> bool:
    return parser.prog.endswith("apollo ops")


def _of_ops(before: Sequence[str], begun: str, stack: str) -> Mapping[str, str] | None:
    from ops import __main__ as ops

    return _candidates(ops.parser(before), before, begun, stack)


def _values(action: argparse.Action, stack: str) -> Mapping[str, str] | None:
    if isinstance(action.choices, dict):
        return {name: verb.description or "" for name, verb in cast(dict[str, Any], action.choices).items()}
    if action.metavar in ("DIR", "FILE"):
        return None
    if action.choices is not None:
        words = [str(choice) for choice in action.choices]
    elif action.dest == "stack":
        words = _stacks()
    elif action.dest == "rotate":
        from localcloud.cli.up import secret_keys

        words = secret_keys()
    elif "HOST" in (action.metavar, action.dest.upper()):
        words = _hosts(stack)
    else:
        words = []
    return dict.fromkeys(words, "")


def _stacks() -> list[str]:
    from localcloud.stack.project import program_dir, stacks

    return stacks(program_dir())


def _hosts(stack: str) -> list[str]:
    from localcloud.errors import LocalCloudError
    from localcloud.stack.running import host_names

    try:
        return host_names(stack)
    except LocalCloudError:
        return []
