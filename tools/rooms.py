"""The rooms of the package, the order in which they stand, and a picture of which imports from which.

``python tools/rooms.py`` writes ``docs/rooms.svg``; `tests/test_layers.py` checks the imports, and that the picture is
the one of the code.
"""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path

__all__ = ["FLOORS", "imports", "modules", "picture", "room"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "onnxprune"
PICTURE = ROOT / "docs" / "rooms.svg"
FLOORS: tuple[tuple[str, ...], ...] = (  # the lowest first; a room imports from the floors below its own only
    ("errors", "locks"),
    ("_version", "files", "note", "progress", "scratch"),
    ("cache", "options"),
    ("data", "solve"),
    ("graph.model",),
    ("graph.channels",),
    ("graph.edit",),
    ("engine",),
    ("torchnet",),
    ("planning",),
    ("steps",),
    ("recovery",),
    ("commands",),
    ("report",),
    ("console",),
    ("api", "cli"),
    ("__init__", "__main__"),
)
_SHOWN = [room for floor in reversed(FLOORS[:-1]) for room in floor if not room.startswith("_")]
_CELL, _LEFT, _TOP = 26, 150, 118


def modules() -> dict[str, Path]:
    """Return the files of the package by module name, without the package's own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def room(module: str) -> str:
    """Return the room of a module: its folder, or the module itself at the top of the package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "graph" and len(parts) > 1 else parts[0]


def imports(path: Path, known: dict[str, Path]) -> tuple[set[str], set[str]]:
    """Return the modules of the package that a file imports, for types only too, and the other packages."""
    own, others = set[str](), set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            others.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            name, _, rest = node.module.partition(".")
            if name != PACKAGE.name:
                others.add(name)
                continue
            for alias in node.names:
                full = f"{rest}.{alias.name}".lstrip(".")
                own.add(full if full in known else rest or "__init__")
    return own, others - {PACKAGE.name}


def picture() -> str:
    """Draw a row and a column for each room, top to bottom, and a dot where the row imports from the column."""
    known = modules()
    edges = {(room(module), room(other)) for module, path in known.items() for other in imports(path, known)[0]}
    width, height = _LEFT + _CELL * len(_SHOWN) + 12, _TOP + _CELL * len(_SHOWN) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, name in enumerate(_SHOWN):
        across, down = _LEFT + _CELL * place, _TOP + _CELL * place
        middle = across + _CELL // 2
        lines += [
            f'<text x="{_LEFT - 8}" y="{down + 17}" text-anchor="end">{escape(name)}</text>',
            f'<text transform="translate({middle + 4} {_TOP - 8}) rotate(-60)">{escape(name)}</text>',
            f'<rect x="{across}" y="{down}" width="{_CELL}" height="{_CELL}" fill="#d0d7de"/>',
        ]
        for other, below in enumerate(_SHOWN):
            if (name, below) in edges and name != below:
                x, y = _LEFT + _CELL * other + _CELL // 2, down + _CELL // 2
                colour = "#0969da" if other > place else "#cf222e"  # red: upward
                lines.append(f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>')
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
