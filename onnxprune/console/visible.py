"""Text for a terminal: names in a model are anyone's, and a terminal obeys what some characters say."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import IO

__all__ = ["drop", "visible"]

# Control characters (C0 but for newline and tab, DEL, C1), and what turns the direction of the text that follows.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PICTURES = 0x2400  # U+2400 to U+241F picture the characters from 0 to 31


def visible(text: str) -> str:
    """Replace every character that a terminal obeys instead of showing it by one that stands for it."""
    return _OBEYED.sub(lambda found: _picture(ord(found.group())), text)


def _picture(code: int) -> str:
    if code < 32:
        return chr(_PICTURES + code)
    return "\u2421" if code == 127 else "\ufffd"


def drop(stream: IO[str]) -> None:
    """Throw away what a stream that cannot be written to still holds, and all that follows: Python would try again."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
