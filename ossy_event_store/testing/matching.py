"""Compare events with what a test expects, and say where they differ. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bson.decimal128 import Decimal128

from ..documents.arguments import check_items
from ..documents.bson_types import Document
from ..documents.catalogue.appending import as_event
from ..documents.catalogue.catalogue import current
from ..documents.catalogue.codecs.plain import plain
from ..documents.catalogue.objects import document_of
from ..documents.diff import changes
from ..documents.display import brief, type_note, visible
from ..documents.event_document import (
    FIELDS,
    TYPE_VERSION,
    check_id,
    is_same_value,
    unknown_key,
)
from ..documents.storable import Unstorable

_SHOWN = 200  # characters of a value
_MOST_CHANGES = 10  # of a state
_SAME = 40  # characters that are shown before two texts begin to differ
_KNOWN = ("id", *FIELDS, "tags", TYPE_VERSION, "position")

_Path = tuple[str | int, ...]


class _Nothing:
    """Stands for a value that is missing."""


_NOTHING = _Nothing()


class EventPattern:
    """
    An event as a test expects it; ``event()`` makes it.

    It equals each event that matches it, so ``events == [event("BookLent")]`` works.

    Args:
        kind: the event's type.
        payload: the fields that its payload must have; it may have others.
        fields: the same of the event's other fields, such as ``tags``.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, kind: str, payload: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> None:
        self.type = check_id(kind, "type")
        self.payload = payload
        self.fields = fields

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Mapping) and "type" in other:
            return not differences(self, other)
        return NotImplemented

    def __repr__(self) -> str:
        some = [repr(self.type)]
        some += [f"{name}={value!r}" for name, value in self.payload.items()]
        text = f"event({', '.join(some)})"
        return f"{text} with {dict(self.fields)!r}" if self.fields else text


def event(kind: str, /, **payload: Any) -> EventPattern:
    """
    Return an event as a test expects it, with some fields of its payload.

    Dicts in it match if the event has their keys with matching values; a list must have
    as many items. Values are those that are stored, or what a class with ``@event``
    would store as such: a ``Decimal``, a ``date``, a member of an ``Enum``. An object
    with its own ``__eq__``, as ``unittest.mock.ANY``, decides for itself.

    Args:
        kind: the event's type.
        payload: what its payload must have; it may have more.
    """
    return EventPattern(kind, payload, {})


def pattern_of(expected: Any) -> EventPattern:
    """
    Return what a test expects as a pattern.

    Args:
        expected: what ``event()`` returned; an object of a class with ``@event``; a
            dict of an event, of which the given fields count; or a type: its name, or
            a class with ``@event``.

    Raises:
        TypeError: it is none of these, or the dict has an unknown key.
        InvalidEvent: the object cannot be stored.
    """
    if isinstance(expected, EventPattern):
        return expected
    if isinstance(expected, str):
        return EventPattern(expected, {}, {})
    types = current().of_class
    if isinstance(expected, type) and expected in types:
        return EventPattern(types[expected].name, {}, {})
    given = as_event(expected)
    if not isinstance(given, Mapping):
        raise TypeError(
            "Expected an event: event('BookLent', to='bob'), an object of a class with "
            f"@event, a dict with type and payload, or a type; not {expected!r}."
        )
    for key in given:
        if key not in _KNOWN:
            raise TypeError(f"{key!r} is {unknown_key(key, _KNOWN)}")
    fields = {"_id" if key == "id" else key: one for key, one in given.items()}
    kind, payload = fields.pop("type", None), fields.pop("payload", None)
    if type(payload) in types and not isinstance(payload, dict):
        payload = document_of({"type": kind, "payload": payload})["payload"]
    return EventPattern(kind, {} if payload is None else payload, fields)


@dataclass(frozen=True)
class Difference:
    """One value that is not as expected."""

    #: Where: ``payload.lines[2].price``.
    path: str
    #: What was expected, as text.
    want: str
    #: What is there, as text.
    got: str


def matches(expected: Any, actual: Document, *, exact: bool = False) -> bool:
    """Whether an event is as expected; see ``differences()``."""
    return not differences(expected, actual, exact=exact)


def differences(
    expected: Any, actual: Mapping[str, Any], *, exact: bool = False
) -> list[Difference]:
    """
    Return where an event is not as expected.

    Args:
        expected: see ``pattern_of()``.
        actual: the event as it is stored.
        exact: whether its payload must have no other fields.
    """
    pattern = pattern_of(expected)
    found = list(compared(("type",), pattern.type, actual.get("type")))
    payload = actual.get("payload")
    found += compared(("payload",), pattern.payload, payload or {}, exact=exact)
    for name, value in pattern.fields.items():
        found += compared((name,), value, actual.get(name, _NOTHING))
    return found


def compared(
    path: _Path, want: Any, got: Any, *, exact: bool = False
) -> Iterator[Difference]:
    """
    Yield where a value is not as expected.

    Args:
        path: of the value.
        want: what is expected, as a test writes it.
        got: the value as it is stored.
        exact: whether its dicts must have no other keys.
    """
    if isinstance(want, Mapping) and isinstance(got, Mapping):
        for key, one in want.items():
            yield from compared((*path, key), one, got.get(key, _NOTHING), exact=exact)
        for key in got if exact else ():
            if key not in want:
                yield _difference((*path, key), _NOTHING, got[key])
    elif isinstance(want, (list, tuple)) and isinstance(got, (list, tuple)):
        for at in range(max(len(want), len(got))):
            one, other = (
                some[at] if at < len(some) else _NOTHING for some in (want, got)
            )
            yield from compared((*path, at), one, other, exact=exact)
    elif got is _NOTHING or want is _NOTHING or not _is_same(want, got):
        yield _difference(path, want, got)


class _Unknown(Exception):
    """A value of a test has no stored form: it decides itself what it equals."""


def _unknown(value: Any) -> NoReturn:
    raise _Unknown


def _is_same(want: Any, got: Any) -> bool:
    """Whether a stored value is as expected."""
    if is_same_value(want, got):
        return True
    try:
        stored = plain(want, _unknown)
    except (_Unknown, Unstorable):
        return bool(want == got)
    if isinstance(stored, Decimal128) and isinstance(got, Decimal128):
        one, other = stored.to_decimal(), got.to_decimal()
        return one.is_finite() and other.is_finite() and one == other
    return is_same_value(stored, got)


# --- as text ----------------------------------------------------------------


def _difference(path: _Path, want: Any, got: Any) -> Difference:
    if isinstance(want, str) and isinstance(got, str):
        want, got = _from_where_they_differ(want, got)
    texts = shown(want), shown(got)
    if texts[0] == texts[1]:
        texts = _with_type(want, texts[0]), _with_type(got, texts[1])
    steps = (f"[{one}]" if isinstance(one, int) else f".{one}" for one in path)
    return Difference(visible("".join(steps).removeprefix(".")), *texts)


def shown(value: Any) -> str:
    """Return a value on one line, with all its characters visible."""
    if value is _NOTHING:
        return "nothing"
    try:
        stored = plain(value, _unknown)
    except (_Unknown, Unstorable):
        return visible(repr(value))[:_SHOWN]
    note = type_note(stored)
    return brief(stored, _SHOWN) + (f" ({note})" if note else "")


def _with_type(value: Any, text: str) -> str:
    return f"{text} ({type(value).__name__})"


def _from_where_they_differ(want: str, got: str) -> tuple[str, str]:
    """Return two texts without most of a long beginning that they share."""
    pairs = zip(want, got, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
    at = (min(len(want), len(got)) if same is None else same) - _SAME
    return (want, got) if at < _SAME else (f"…{want[at:]}", f"…{got[at:]}")


def diff(
    expected: Sequence[Any], actual: Sequence[Document], *, exact: bool = False
) -> str:
    """
    Return how events differ from what is expected, event by event; "" if they do not.

    Their order and number count.

    Args:
        expected: see ``pattern_of()``.
        actual: events as they are stored.
        exact: whether their payloads must have no other fields.
    """
    items = check_items(expected, "expected", "events")
    report = _Report([pattern_of(one) for one in items], actual, exact)
    return report.text() if report.differs else ""


class _Report:
    """Events beside those that are expected, step by step."""

    def __init__(
        self, wanted: Sequence[EventPattern], actual: Sequence[Document], exact: bool
    ) -> None:
        self._wanted, self._actual, self._exact = wanted, actual, exact
        self._lines: list[str] = []
        self._same: list[str] = []  # lines of events that are as expected
        self.differs = False
        types = [one.type for one in wanted], [str(one.get("type")) for one in actual]
        # By their types, so that after one missing event the others are compared.
        matcher = difflib.SequenceMatcher(None, *types, autojunk=False)
        for _, start, end, first, last in matcher.get_opcodes():
            for at in range(max(end - start, last - first)):
                want = wanted[start + at] if start + at < end else None
                self._step(want, first + at if first + at < last else None)
        self._flush()

    def text(self) -> str:
        """Return the report."""
        return "\n".join(self._lines)

    def _step(self, want: EventPattern | None, at: int | None) -> None:
        if at is None:
            if want is not None:
                self._differ([f"   {_event(want)} is missing"])
            return
        got, number = self._actual[at], f"{at + 1}. "
        if want is None:
            self._differ([f"{number}{_event(got)} is not expected"])
            return
        found = differences(want, got, exact=self._exact)
        if not found:
            self._same.append(f"{number}{visible(want.type)} is as expected")
            return
        lines = [f"{number}{visible(str(got.get('type')))} is not as expected"]
        for one in found:
            lines += [f"     {one.path}", f"       want {one.want}"]
            lines.append(f"       got  {one.got}")
        self._differ(lines)

    def _differ(self, lines: list[str]) -> None:
        self.differs = True
        self._flush()
        self._lines += lines

    def _flush(self) -> None:
        same, self._same = self._same, []
        if len(same) > 3:
            same = [same[0], f"   … {len(same) - 2} more as expected", same[-1]]
        self._lines += same


def _event(one: EventPattern | Mapping[str, Any]) -> str:
    """Return an event on one line."""
    if isinstance(one, EventPattern):
        return f"{visible(one.type)} {shown(one.payload)}"
    return f"{visible(str(one.get('type')))} {shown(one.get('payload') or {})}"


def listed(found: Sequence[Difference]) -> str:
    """Return differences on lines of their own."""
    return "\n".join(
        f"  {one.path}\n    want {one.want}\n    got  {one.got}" for one in found
    )


def changed(whole: Mapping[Any, Any], other: Mapping[Any, Any]) -> list[Difference]:
    """Return the first differences of two states, with the types of their values."""
    return [
        Difference(
            one.where,
            "nothing" if one.kind == "added" else shown(one.old),
            "nothing" if one.kind == "removed" else shown(one.new),
        )
        for one in changes(whole, other, limit=_MOST_CHANGES).items
    ]
