"""The generated parts of the documentation: commands, options and exit codes, as Markdown, from the code itself.

mkdocs loads this file as a hook and calls `on_page_markdown` for every page; a line ``<!-- reference: options -->``
becomes the tables. ``python tools/reference.py options`` prints them.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import App

from onnxprune import errors
from onnxprune.cli import app
from onnxprune.console.flags import RARE

__all__ = ["exit_codes", "on_page_markdown", "options"]

_WORDS = {"Path": "path", "str": "text", "int": "integer", "float": "number", "bool": "flag"}
"""How a page names the types of Python."""


def options() -> str:
    """Return all commands: a section a command, a table a panel, a row an option."""
    return "\n\n".join(part for command, words in _commands(app, app.name[0]) for part in _section(command, words))


def exit_codes() -> str:
    """Return the exit codes of `onnxprune.errors` as the rows of a table, by code."""
    lines = ["| code | error in Python | meaning |", "|---|---|---|", "| 0 | | Done. |"]
    for kind in sorted(_below(errors.OnnxPruneError), key=lambda one: one.exit_code):
        lines.append(f"| {kind.exit_code} | `{kind.__name__}` | {_line(_first(kind.__doc__))} |")
    return "\n".join((*lines, "| 130, 143 | | Interrupted (Ctrl-C), terminated (SIGTERM). |"))


_PARTS = {"options": options, "exit codes": exit_codes}
"""What may stand behind ``reference:`` in a page."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the generated parts in the place of their markers; called by mkdocs for every page.

    Raises:
        KeyError: a marker names a part that does not exist.
    """
    return re.sub(r"<!-- reference: ([\w ]+) -->", lambda found: _PARTS[found[1]](), markdown)


def _commands(command: App, words: str) -> Iterator[tuple[App, str]]:
    """A command and all below it, each with the words to type."""
    yield command, words
    for name in command:
        if not name.startswith("-"):
            yield from _commands(command[name], f"{words} {name}")


def _section(command: App, words: str) -> Iterator[str]:
    function = command.default_command
    if function is None:
        return
    # A command below the first one does not look up its defaults by itself.
    found = command.assemble_argument_collection(default_parameter=app.default_parameter, parse_docstring=True)
    arguments: list[Any] = [one for one in found if not one.children]
    places = " ".join(f"{one.names[0].lstrip('-').upper()}" for one in arguments if one.index is not None)
    yield f"## `{f'{words} {places}'.strip()}`"
    yield _first(inspect.getdoc(function))
    panels: dict[str, list[Any]] = {}
    for one in arguments:
        panels.setdefault(one.parameter.group[0].name, []).append(one)
    for panel, held in panels.items():
        yield f"**{panel}**"
        rows = ["| option | value | default | `--help` | meaning |", "|---|---|---|---|---|", *map(_row, held)]
        yield "\n".join(rows)


def _row(argument: Any) -> str:
    shown = "`--help-all`" if RARE.intersection(argument.names) else "yes"
    names = ", ".join(f"`{name}`" for name in argument.names)
    if argument.index is not None:
        names = f"`{argument.names[0].lstrip('-').upper()}`"
    cells = names, _values(argument.hint), _default(argument), shown, _line(argument.parameter.help or "")
    return f"| {' | '.join(cells)} |"


def _values(hint: Any) -> str:
    """What may be given, in words: ``number``, ``text ...``, or the choices."""
    hint = getattr(hint, "__value__", hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_values(kind) for kind in inner if kind is not types.NoneType))
    if origin in (tuple, list):
        return f"{_values(inner[0])} ..." if inner else "text ..."
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{choice.value}`" for choice in hint)
    return _WORDS.get(getattr(hint, "__name__", ""), "text")


def _default(argument: Any) -> str:
    """The default as it would be typed; empty where the meaning says what happens without the option."""
    if argument.required:
        return "required"
    value = argument.field_info.default
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value is inspect.Parameter.empty or value == ():
        return ""
    if isinstance(value, Enum):
        value = value.value
    return f"`{' '.join(map(str, value)) if isinstance(value, (tuple, list)) else value}`"


def _below(kind: type[errors.OnnxPruneError]) -> Iterator[type[errors.OnnxPruneError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _below(child)


def _first(text: str | None) -> str:
    """The first paragraph, in one line."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


def _line(text: str) -> str:
    """Text as the cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


if __name__ == "__main__":
    print(_PARTS[" ".join(sys.argv[1:]) or "options"]())
