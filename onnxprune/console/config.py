"""Options in a TOML file, and single ones by group and field: both become arguments of the command line.

A file has a table a group of options, and their fields under the names that they have in Python::

    [budget]
    macs = "50%"

    [data]
    preset = "imagenet"

    [run]
    data = "photos"

``[run]`` holds what belongs to no group. What is typed on the command line replaces what the file says.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

from onnxprune.errors import UsageError

__all__ = ["RUN", "config_text", "configured", "differing"]

RUN = "run"
"""Name of the group for options that belong to no other group."""
_CONFIG, _SET = "--config", "--set"
_NEGATIVE = "--no-"
_BUDGET = "budget"  # whose fields exclude each other


def configured(arguments: Sequence[str], groups: Mapping[str, Collection[str]]) -> list[str]:
    """Replace ``--set GROUP.FIELD=VALUE`` and the content of ``--config FILE`` by the options of the command line.

    Args:
        arguments: arguments of the command.
        groups: names of the fields of each group.

    Returns:
        The other arguments, the options of ``--set``, the options of the file that neither of them gives, and
        ``--config=FILE``, so that the command does not write over the file.

    Raises:
        UsageError: the file cannot be read, a group or a field is unknown, or an option is given twice.
    """
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    files, left = _taken(_CONFIG, arguments[:end])
    settings, left = _taken(_SET, left)
    if len(files) > 1:
        raise UsageError(f"{_CONFIG} takes one file, found {', '.join(files)}")
    typed = {_positive(argument) for argument in left if argument.startswith("-")}
    said: dict[str, list[str]] = {}
    for text in settings:
        name, words = _setting(text, groups)
        flag = _positive(words[0])
        if flag in typed:
            raise UsageError(f"{flag} and {_SET} {name} are one option: give it once")
        said[flag] = words
    typed.update(said)
    budgets = {f"--{_dashed(field)}" for field in groups.get(_BUDGET, ())}
    budgeted = not typed.isdisjoint({*budgets, "--plan", "--pareto"})
    for path in files:
        for words in _read(Path(path), groups):
            flag = _positive(words[0])
            if flag not in typed and not (budgeted and flag in budgets):
                said[flag] = words
    options = [word for words in said.values() for word in words]
    return [*left, *options, *(f"{_CONFIG}={path}" for path in files), *arguments[end:]]


def _taken(flag: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the values of an option, each its next argument or behind an equals sign, and the other arguments."""
    values: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == flag:
            value = next(rest, None)
            if value is None:
                raise UsageError(f"{flag} needs a value, found none")
            values.append(value)
        elif argument.startswith(f"{flag}="):
            values.append(argument.removeprefix(f"{flag}="))
        else:
            others.append(argument)
    return values, others


def _dashed(field: str) -> str:
    return field.replace("_", "-")


def _positive(argument: str) -> str:
    """Return the option of an argument, without its value, ``--no-`` left out."""
    flag = _dashed(argument.partition("=")[0])
    return f"--{flag.removeprefix(_NEGATIVE)}" if flag.startswith(_NEGATIVE) else flag


def _setting(text: str, groups: Mapping[str, Collection[str]]) -> tuple[str, list[str]]:
    """Return the name and the arguments of ``GROUP.FIELD=VALUE``; the value is one of TOML, or else plain text."""
    name, equals, value = (part.strip() for part in text.partition("="))
    group, dot, field = name.partition(".")
    if not (equals and dot):
        raise UsageError(f"{_SET} {text}: expected GROUP.FIELD=VALUE, such as refit.rounds=2")
    _check(f"{_SET} {text}", group, field, groups)
    try:
        read = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        read = value
    return name, _words(field, read)


def _read(path: Path, groups: Mapping[str, Collection[str]]) -> Iterable[list[str]]:
    """Yield the arguments of each option of a file."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{_CONFIG} {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{_CONFIG} {path}: expected a TOML file: {error}") from error
    for group, table in content.items():
        if not isinstance(table, dict):
            raise UsageError(f"{_CONFIG} {path}: '{group}' belongs to no group; put it under one of {_listed(groups)}")
        for field, value in table.items():
            _check(f"{_CONFIG} {path}", group, field, groups)
            yield _words(field, value)


def _check(where: str, group: str, field: str, groups: Mapping[str, Collection[str]]) -> None:
    if group not in groups:
        raise UsageError(f"{where}: unknown group '{group}', expected one of {_listed(groups)}")
    if field not in groups[group]:
        near = difflib.get_close_matches(field, groups[group], 1)
        meant = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"{where}: group '{group}' has no '{field}', only {', '.join(groups[group])}{meant}")


def _listed(groups: Mapping[str, Collection[str]]) -> str:
    return ", ".join(groups)


def _words(field: str, value: object) -> list[str]:
    """Return the arguments that give a field a value; texts follow an equals sign, since they may begin with -."""
    flag = f"--{_dashed(field)}"
    if isinstance(value, bool):
        return [flag if value else f"{_NEGATIVE}{_dashed(field)}"]
    items = _flat(value)
    if any(isinstance(item, str) for item in items):
        return [f"{flag}={item}" for item in items]
    return [flag, *(str(item) for item in items)]


def _flat(value: object) -> list[object]:
    return [item for part in value for item in _flat(part)] if isinstance(value, list) else [value]


def differing(record: object) -> dict[str, object]:
    """Return the fields of a group of options that differ from their defaults, with their values.

    Args:
        record: a dataclass whose fields have default values.
    """
    assert is_dataclass(record)
    values = {field: getattr(record, field.name) for field in fields(record)}
    return {field.name: value for field, value in values.items() if value != field.default}


def config_text(groups: Mapping[str, Mapping[str, object]]) -> str:
    """Format options as TOML that `configured` reads; empty groups are omitted.

    Args:
        groups: values by group and field.
    """
    tables = []
    for group, values in groups.items():
        if values:
            tables.append("\n".join([f"[{group}]", *(f"{field} = {_value(value)}" for field, value in values.items())]))
    return "\n\n".join(tables) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)  # inf and nan are numbers of TOML, too
    if isinstance(value, tuple | list):
        return f"[{', '.join(_value(item) for item in value)}]"
    # A basic string of TOML has JSON's escapes, and wants one more character escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
