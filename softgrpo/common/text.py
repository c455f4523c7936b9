"""Text from elsewhere, such as titles, names and values of settings, in a form that is safe and short enough to show."""

from __future__ import annotations

import re
import unicodedata

JOINERS = "\u200c\u200d"
"""Invisible, and shown as they are: Persian words and many emoji are written with them."""
LONGEST_WORD, LONGEST_LINE, MOST_LINES = 500, 1500, 40
HEAD = 0.7
"""Share of what is shown of something long that comes from its beginning."""


def visible(text: str, kept: str = "") -> str:
    r"""Returns a text in which every character that a reader cannot see is an escape, such as `\x1b` or `\u202e`.

    Such characters move a terminal's cursor, turn the direction of the letters behind them, or end a line of a log. Spaces of all
    widths stay, and so do letters of all scripts.

    Args:
        text: Any text, with half of a surrogate pair in it too.
        kept: Control characters that stay, such as the line feeds of a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in kept or _is_seen(letter) else _escape(letter) for letter in text)


def _is_seen(letter: str) -> bool:
    return letter.isprintable() or letter in JOINERS or unicodedata.category(letter) == "Zs"


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def visible_json(text: str) -> str:
    r"""Returns JSON that means the same, with an escape such as `\u202e` for every character that a reader cannot see.

    Args:
        text: What `json.dumps` returned; the line feeds between its values stay.
    """
    return "".join(letter if letter == "\n" or _is_seen(letter) else _json_escape(letter) for letter in text)


def _json_escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True))


def shortened(text: str) -> str:
    """Returns a text whose long words and long lines have a middle that only says how long it is, and that ends after some lines.

    A message that quotes a value of any size stays readable, with the beginning and the end of the value.
    """
    lines = text.split("\n")
    words = rf"\S{{{LONGEST_WORD + 1},}}"
    kept = [
        _cut(re.sub(words, lambda word: _cut(word[0], LONGEST_WORD), line), LONGEST_LINE) for line in lines[:MOST_LINES]
    ]
    more = [f"... and {len(lines) - MOST_LINES:,} more lines"] if len(lines) > MOST_LINES else []
    return "\n".join(kept + more)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    head = int(longest * HEAD)
    tail = longest - head
    return f"{text[:head]}[... {len(text) - longest:,} characters ...]{text[-tail:]}"


def one_line(text: str) -> str:
    """Returns a text as one short line without invisible characters, for a message that quotes it."""
    return shortened(visible(re.sub(r"\s+", " ", text).strip()))


def counted(number: int, noun: str) -> str:
    """Returns a number with what it counts, in the plural unless it is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
