"""
BSON values as text for people: escaped, visible, and with their types.

Others wrote what is stored. So everything is escaped, no character is invisible or
changes the direction of the text around it, and a value costs no more than the part of
it that is shown.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import reprlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bson import (
    Code,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
)
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString

from .extended_json import iso

# Characters that are invisible or move others: controls, soft hyphens, fillers,
# joiners, marks of direction, line and paragraph separators, halves of a surrogate
# pair, variation selectors, tags, and code points that are no character.
_INVISIBLE = (
    r"\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f"
    r"\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_IN_TEXT = re.compile(f"[{_INVISIBLE}]")
# ``json.dumps()`` has escaped the others, and lays its own text out with these.
_IN_JSON = re.compile(f"(?![\\n ])[{_INVISIBLE}]")
_IN_QUOTES = re.compile(rf'[{_INVISIBLE}"\\]')
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}

_REPR = reprlib.Repr()
_REPR.maxother = _REPR.maxstring = 200  # characters of a value of an unknown type


@dataclass(frozen=True)
class Rendered:
    """A value as HTML."""

    html: SafeString
    """The content of a ``<pre>``."""
    is_cut: bool
    """Whether the limit cut it."""
    size: int | None
    """Characters of the text without tags; None if it was cut."""


def lines(value: Any, limit: int = 64_000) -> Rendered:
    """
    Return a value as HTML, one item a line, with notes of the types that JSON lacks.

    A string is cut between two characters or escapes. A number, a date, an id or a
    note is never cut, but left out.

    Args:
        value: any BSON value; of other types the name and ``repr()`` are shown.
        limit: the most characters of text, without tags.
    """
    limit = max(limit, 0)
    room = _Room(limit)
    parts = []
    for token in _tokens(value, limit, is_tall=True):
        parts.append(_html(token, room.fit(token)))
        if room.is_cut:
            break
    size = None if room.is_cut else limit - room.left
    return Rendered(_join(parts), room.is_cut, size)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 stream``, ``1,000 streams``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def brief(value: Any, limit: int = 120) -> str:
    """
    Return a value as one line of plain text, not HTML, without notes of types.

    It has 1 to ``limit`` characters; the last one is ``…`` if the value was cut.
    """
    text, is_cut = _line(value, max(limit, 1))
    return f"{_line(value, max(limit - 1, 0))[0]}…" if is_cut else text


def type_note(value: Any) -> str:
    """Return the name of a value's type, or "" if JSON has the type."""
    note = _type(value).note
    return note if isinstance(note, str) else note(value)


def visible(text: str) -> str:
    r"""
    Return a text in which every character is visible: ``\u202e`` for U+202E.

    A backslash stays as it is. The result is not HTML.
    """
    return _IN_TEXT.sub(_escaped, text)


def visible_json(text: str) -> str:
    r"""
    Return JSON in which every character is visible, and which has the same meaning.

    Args:
        text: of ``json.dumps()``, so the characters are inside of strings.
    """
    return _IN_JSON.sub(_escaped_in_json, text)


def _escaped_in_json(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    long = f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"
    return _SHORT.get(character, long)


# --- types ------------------------------------------------------------------


class _Type(NamedTuple):
    """How a type is displayed; ``text`` may stop a little after the limit."""

    kind: type | tuple[type, ...]
    css: str
    text: Callable[[Any, int], str]
    note: str | Callable[[Any], str]
    is_whole: bool = True
    is_quoted: bool = False


def _plain(value: object, limit: int) -> str:
    return str(value)


def _cut(value: str, limit: int) -> str:
    return str.__str__(value[: limit + 1])  # a SafeString is not safe here


def _integer(value: int, limit: int) -> str:
    # Python refuses to print an integer of thousands of bits in decimal.
    return int.__repr__(value) if -(2**63) <= value < 2**63 else hex(value)


def _integer_note(value: int) -> str:
    if not -(2**63) <= value < 2**63:
        return "int beyond 64 bits"
    is_small = -(2**31) <= value < 2**31
    return "int64" if isinstance(value, Int64) or not is_small else ""


def _float(value: float, limit: int) -> str:
    name = float.__repr__(value)
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(name, name)


def _date(value: dt.datetime, limit: int) -> str:
    try:
        return iso(value) if value.utcoffset() is not None else value.isoformat()
    except OverflowError:
        return value.isoformat()


def _bytes_note(value: bytes) -> str:
    kind = getattr(value, "subtype", 0)
    size = f"binary {counted(len(value), 'byte')}"
    return f"{size}, subtype {kind}" if kind else size


def _regex(value: Regex[Any] | re.Pattern[Any], limit: int) -> str:
    letters = zip("ilmsux", (2, 4, 8, 16, 32, 64), strict=True)
    flags = "".join(letter for letter, bit in letters if value.flags & bit)
    pattern = value.pattern[: limit + 1]
    return f"/{pattern if isinstance(pattern, str) else repr(pattern)}/{flags}"


def _unknown(value: object, limit: int) -> str:
    return str.__str__(_REPR.repr(value))


# The first that matches: a Code is a str, a bool is an int, and all are objects.
_TYPES = (
    _Type(Code, "es-string", _cut, "code", is_whole=False, is_quoted=True),
    _Type(str, "es-string", _cut, "", is_whole=False, is_quoted=True),
    _Type(bool, "es-word", lambda value, _: str(value).lower(), ""),
    _Type(int, "es-number", _integer, _integer_note),
    _Type(type(None), "es-word", lambda value, _: "null", ""),
    _Type(float, "es-number", _float, lambda n: "" if math.isfinite(n) else "double"),
    _Type((Mapping, list, tuple), "", _unknown, ""),
    _Type(DBRef, "", _unknown, "dbref"),
    _Type(dt.datetime, "es-string", _date, "date"),
    _Type(DatetimeMS, "es-number", lambda n, _: str(int(n)), "date in milliseconds"),
    _Type(uuid.UUID, "es-string", _plain, "uuid"),
    _Type(ObjectId, "es-string", _plain, "objectid"),
    _Type(Decimal128, "es-number", _plain, "decimal128"),
    _Type(bytes, "es-string", lambda b, n: b[: n + 1].hex(), _bytes_note, False),
    _Type((Regex, re.Pattern), "es-string", _regex, "regex", is_whole=False),
    _Type(Timestamp, "es-number", lambda at, _: f"{at.time}:{at.inc}", "timestamp"),
    _Type(MinKey, "es-word", lambda value, _: "MinKey", "minkey"),
    _Type(MaxKey, "es-word", lambda value, _: "MaxKey", "maxkey"),
    _Type(object, "es-string", _unknown, lambda value: type(value).__name__, False),
)


def _type(value: Any) -> _Type:
    return next(known for known in _TYPES if isinstance(value, known.kind))


# --- tokens -----------------------------------------------------------------


class _Token(NamedTuple):
    """A piece of the text; without ``css`` it is layout."""

    text: str
    css: str = ""
    is_whole: bool = True
    is_quoted: bool = False


@dataclass(slots=True)
class _Open:
    """A container whose items are not all written yet: keys as tokens, and values."""

    items: Iterator[tuple[_Token | None, Any]]
    end: str
    is_empty: bool = True


def _opened(value: Any, limit: int) -> _Open | None:
    if isinstance(value, DBRef):
        value = value.as_doc()
    elif isinstance(value, Code) and value.scope is not None:
        value = {"$code": str(value), "$scope": value.scope}
    if isinstance(value, Mapping):
        return _Open(
            ((_key_token(key, limit), item) for key, item in value.items()), "}"
        )
    if isinstance(value, list | tuple):
        return _Open(((None, item) for item in value), "]")
    return None


def _key_token(key: object, limit: int) -> _Token:
    text = key if isinstance(key, str) else _REPR.repr(key)
    return _Token(_cut(text, limit), "es-key", is_whole=False, is_quoted=True)


def _tokens(value: Any, limit: int, *, is_tall: bool) -> Iterator[_Token]:
    """Yield a value piece by piece, with its own stack for nested values."""
    containers = [_Open(iter([(None, value)]), "")]
    while containers:
        container = containers[-1]
        for key, item in container.items:
            if len(containers) > 1:
                yield from _gap(container, len(containers) - 1, is_tall)
            if key:
                yield from (key, _Token(": "))
            if inner := _opened(item, limit):
                yield from _start(item, inner, is_tall)
                containers.append(inner)
                break
            yield from _scalar(item, limit, is_tall)
        else:
            containers.pop()
            if is_tall and not container.is_empty:
                yield _Token(_indent(len(containers) - 1))
            yield _Token(container.end)


def _indent(depth: int) -> str:
    return "\n" + "  " * depth


def _gap(container: _Open, depth: int, is_tall: bool) -> Iterator[_Token]:
    comma = "" if container.is_empty else ","
    container.is_empty = False
    yield _Token(comma + (_indent(depth) if is_tall else " " if comma else ""))


def _start(value: Any, inner: _Open, is_tall: bool) -> Iterator[_Token]:
    if is_tall and (note := type_note(value)):
        yield from (_Token(note, "es-type"), _Token(" "))
    yield _Token("{" if inner.end == "}" else "[")


def _scalar(value: Any, limit: int, is_tall: bool) -> Iterator[_Token]:
    known = _type(value)
    yield _Token(known.text(value, limit), known.css, known.is_whole, known.is_quoted)
    if is_tall and (note := type_note(value)):
        yield from (_Token(" "), _Token(note, "es-type"))


# --- output -----------------------------------------------------------------


class _Room:
    """How many characters still fit."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.is_cut = False

    def fit(self, token: _Token) -> list[tuple[str, bool]]:
        """Return what fits of a token, in pieces: text, and whether it is an escape."""
        fitting = []
        for text, is_escape in _pieces(token):
            if len(text) > self.left:
                self.is_cut = True
                text = "" if is_escape or token.is_whole else text[: self.left]
            if text:
                fitting.append((text, is_escape))
                self.left -= len(text)
            if self.is_cut:
                break
        return fitting


def _pieces(token: _Token) -> Iterator[tuple[str, bool]]:
    if token.is_whole:
        yield visible(token.text) if token.css else token.text, False
        return
    if token.is_quoted:
        yield '"', False
    at = 0
    for match in (_IN_QUOTES if token.is_quoted else _IN_TEXT).finditer(token.text):
        if match.start() > at:
            yield token.text[at : match.start()], False
        yield _escaped(match), True
        at = match.end()
    if at < len(token.text):
        yield token.text[at:], False
    if token.is_quoted:
        yield '"', False


def _line(value: Any, limit: int) -> tuple[str, bool]:
    room = _Room(limit)
    parts: list[str] = []
    for token in _tokens(value, limit, is_tall=False):
        parts.extend(text for text, _ in room.fit(token))
        if room.is_cut:
            break
    return "".join(parts), room.is_cut


def _join(parts: list[SafeString]) -> SafeString:
    if len(parts) == 1:  # most are, and the other way is slow
        return parts[0]
    return format_html_join("", "{}", ((part,) for part in parts))


def _html(token: _Token, pieces: list[tuple[str, bool]]) -> SafeString:
    inside = _join(
        [
            format_html('<span class="es-escape">{}</span>', escape(text))
            if is_escape
            else escape(text)
            for text, is_escape in pieces
        ]
    )
    if not token.css or not inside:
        return inside
    if token.css in ("es-key", "es-string"):  # a text in Hebrew turns nothing around it
        return format_html('<span class="{}"><bdi>{}</bdi></span>', token.css, inside)
    return format_html('<span class="{}">{}</span>', token.css, inside)
