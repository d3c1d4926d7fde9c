"""From the keys under `apollo:` to checked settings: all problems in one PlanError, before anything is created.

Pydantic's findings are translated here: each problem names the key, the value and what would be valid.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from netaddr import IPNetwork
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from plan.checks import check
from plan.problems import PlanError, Problem
from plan.settings import NO_NUMBER, REGION_KEY, SECRET_KEYS, Settings


def parse(raw: Mapping[str, Any], source: str = "configuration") -> Settings:
    """The settings in `raw` (keys in camelCase), or PlanError with every problem found."""
    settings, problems = examine(raw)
    refuse(problems, source)
    return settings


def examine(raw: Mapping[str, Any]) -> tuple[Settings, list[Problem]]:
    """The settings in `raw` (keys in camelCase), and every problem found; with one, they are only good for further checks.

    A part that is malformed does not hide the others: it is taken as its default while the rest is checked, and checks
    that would rest on it are left out.
    """
    problems: list[Problem] = []
    broken: set[str] = set()
    usable = _copy(raw)
    while True:
        try:
            settings = Settings.model_validate(usable)
            break
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                problems.append(_problem(detail))
                location = _location(detail)
                instead = (detail.get("ctx") or {}).get("instead")
                _repair(usable, location, instead)
                if location == ("region",):
                    # It has no default. The rest is checked as if this were given.
                    usable["region"] = "eu-west-1"
                if instead is None and detail["type"] != "extra_forbidden":
                    broken.add(".".join(str(part) for part in location[:2]))
    problems += check(settings, broken)
    return settings, problems


def refuse(problems: Iterable[Problem], source: str) -> None:
    """PlanError with the problems, each once and in the order of the keys, if there are any."""
    order = {name: place for place, name in enumerate([REGION_KEY, *_aliases(Settings), *SECRET_KEYS])}
    unique = sorted(dict.fromkeys(problems), key=lambda p: order.get(re.split(r"[.\[]", p.key)[0], len(order)))
    if unique:
        raise PlanError(unique, source)


def _location(detail: ErrorDetails) -> tuple[int | str, ...]:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _key(location: Sequence[int | str]) -> str:
    if tuple(location) == ("region",):
        return REGION_KEY
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def _shown(value: object) -> str:
    """The value as YAML has it, cut where it is long, on one line."""
    if isinstance(value, str):
        text = value if value.isprintable() and value == value.strip() != "" else json.dumps(value, ensure_ascii=False)
    else:
        text = str(value) if isinstance(value, IPNetwork) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _problem(detail: ErrorDetails) -> Problem:
    location = _location(detail)
    key, kind = _key(location), detail["type"]
    if kind == "extra_forbidden":
        return Problem(key, _unknown(location))
    if kind == "missing":
        return Problem(key, f"is missing; give one such as {_example(location)}")
    what = detail["msg"] if kind in ("cidr", "host_bits", "index", "zone", "first_host") else _what(detail, _example(location))
    return Problem(key, f"{_shown(detail['input'])} {what}")


def _what(detail: ErrorDetails, example: str) -> str:
    """What is wrong with a value, and what would do."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx") or {}
    if kind == "int_type":
        quoted = isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value)
        return "is text, not a whole number; give it without quotes" if quoted else NO_NUMBER
    if kind == "bool_type":
        quoted = value in ("true", "false")
        return "is text; give it without quotes" if quoted else "is neither true nor false; give one of the two"
    if kind == "greater_than_equal":
        return f"is out of range; give {context['ge']} or more"
    if kind == "less_than_equal":
        return f"is out of range; give at most {context['le']}"
    if kind == "literal_error":
        return f"is not a choice; give {context['expected']}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "is not a set of keys; give key: value lines below it"
    if kind == "list_type":
        return f"is not a list; give one such as {example}"
    if kind == "too_short":
        return f"is empty; give one such as {example}"
    if kind == "too_long":
        return f"has {context['actual_length']} entries; give at most {context['max_length']}"
    if kind == "string_type":
        return "is not text; give text in quotes"
    if kind in ("string_too_short", "string_too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        return f"is too {f'short; give {least} characters or more' if least else f'long; give {most} characters at most'}"
    if kind == "string_pattern_mismatch":
        return f"is malformed; give {f'one such as {example}' if example else 'text matching ' + context['pattern']}"
    return f"does not fit ({detail['msg']}); docs/settings.md says what does"


def _unknown(location: Sequence[int | str]) -> str:
    known = _top() if len(location) == 1 else _aliases(_model(location[:-1]))
    word, section = str(location[-1]), _key(location[:-1])
    close = _closest(word, [*known, REGION_KEY] if len(location) == 1 else known)
    if not close:
        return f"unknown key; valid here: {', '.join(known)}"
    return f"unknown key; did you mean {' or '.join(f'{section}.{name}' if section else name for name in close)}?"


def _closest(word: str, known: Sequence[str]) -> list[str]:
    """The name most like the word, and one that is nearly as much: adminKey may be meant for admin or for adminPrivateKey."""
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.5)
    likeness = [difflib.SequenceMatcher(None, name, word).ratio() for name in close]
    return [name for name, ratio in zip(close, likeness, strict=True) if ratio > likeness[0] - 0.1]


def _top() -> list[str]:
    """The keys that may be under `apollo:`."""
    return [*(name for name in _aliases(Settings) if name != "region"), *SECRET_KEYS]


def _aliases(model: type[BaseModel] | None) -> list[str]:
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _field(model: type[BaseModel] | None, alias: int | str) -> FieldInfo | None:
    fields = {} if model is None else model.model_fields
    return next((field for name, field in fields.items() if (field.alias or name) == alias), None)


def _model(path: Sequence[int | str]) -> type[BaseModel] | None:
    """The section at the path, None where there are values."""
    inside: Any = Settings
    for part in path:
        if get_origin(inside) in (dict, list):
            inside = _bare(get_args(inside)[-1])
        else:
            field = _field(inside if isinstance(inside, type) and issubclass(inside, BaseModel) else None, part)
            inside = _bare(field.annotation) if field else None
    return inside if isinstance(inside, type) and issubclass(inside, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """What an annotation is of, without None and what pydantic checks beside."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not NoneType)
    return annotation


def _example(location: Sequence[int | str]) -> str:
    """A good value for the key, as YAML; for an element of a list a good element. Empty where the field has none."""
    names = list(location)
    while isinstance(names[-1], int):
        names.pop()
    field = _field(_model(names[:-1]), names[-1])
    example: Any = ((field and field.examples) or [""])[0]
    if isinstance(example, list):
        entries = [str(entry) for entry in cast(list[object], example)]
        return entries[0] if isinstance(location[-1], int) else f"[{', '.join(entries)}]"
    return str(example)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _copy(v) for k, v in cast(Mapping[object, object], value).items()}
    if isinstance(value, list):
        return [_copy(v) for v in cast(list[object], value)]
    return value


def _repair(raw: Any, location: Sequence[int | str], instead: object) -> None:
    """Puts `instead` at the location, or takes the finding's nearest removable ancestor out."""
    holder: Any = raw
    path: list[tuple[Any, int | str]] = []
    for part in location:
        if isinstance(holder, dict):
            key = str(part)
            if key not in holder:
                break
            path.append((cast(dict[str, Any], holder), key))
            holder = cast(dict[str, Any], holder)[key]
        elif isinstance(holder, list) and isinstance(part, int) and part < len(cast(list[Any], holder)):
            path.append((cast(list[Any], holder), part))
            holder = cast(list[Any], holder)[part]
        else:
            break
    if instead is not None and len(path) == len(location):
        container, key = path[-1]
        container[key] = instead
        return
    # An element out of a list would renumber the ones behind it, so the whole list goes.
    while path and isinstance(path[-1][0], list):
        path.pop()
    if path:
        container, key = path[-1]
        container.pop(key, None)
