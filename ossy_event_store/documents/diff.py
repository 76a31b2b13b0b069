"""
The diff of two documents: what an event changed in a state.

Two values are the same if BSON holds them in the same type with the same content,
so ``1``, ``1.0``, ``True`` and ``Int64(1)`` are four values.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import bson
from bson import ObjectId
from bson.errors import BSONError

from .bson_types import CODEC
from .display import brief, visible

Path: TypeAlias = tuple[str | int, ...]

# Comparisons to find where a list grew or shrank. Nested lists are compared again at
# each level; after so many comparisons, items are compared one by one.
COMPARISONS = 2_000_000
_KEY_LENGTH = 80  # characters of a key in a path
_PLAIN = frozenset((str, bool, int, float, type(None)))
_BY_VALUE = (_PLAIN - {float}) | {ObjectId, bytes, uuid.UUID}
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One value that was added, removed or changed."""

    path: Path
    """Keys and indexes, in the old state if it was removed, else in the new one."""
    kind: Literal["added", "removed", "changed"]
    old: Any
    """None if it was added."""
    new: Any
    """None if it was removed."""

    @property
    def where(self) -> str:
        """The path for people, as ``customer.address[2].street`` or ``["a.b"]``."""
        return "".join(_step(key) for key in self.path).removeprefix(".")


def _step(key: object) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if _is_plain_name(key) else f"[{brief(key, _KEY_LENGTH)}]"


def _is_plain_name(key: object) -> bool:
    if not isinstance(key, str) or len(key) > _KEY_LENGTH:
        return False
    return key.isidentifier() and visible(key) == key


@dataclass(frozen=True)
class Diff:
    """The first changes of a state, in the order of its keys."""

    items: list[Change]
    more: int
    """How many more changes there are."""


def changes(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    limit: int = 200,
    comparisons: int = COMPARISONS,
) -> Diff:
    """
    Return the changes that turn ``before`` into ``after``.

    Documents are compared key by key in the order of ``after``; removed keys come last.
    In a list that grew or shrank, the equal items at both ends are left out, and the
    others are compared by index. A value that is added or removed is one change,
    however large it is.

    Args:
        before: a state, nested to any depth.
        after: a state.
        limit: the most changes to return; the others are only counted.
        comparisons: the most comparisons to find where a list grew or shrank.
    """
    items: list[Change] = []
    more = 0
    for change in _Comparison(comparisons).run(before, after):
        if len(items) < limit:
            items.append(change)
        else:
            more += 1
    return Diff(items, more)


class _Comparison:
    """One walk through two states, with its own stack for nested values."""

    def __init__(self, comparisons: int) -> None:
        self.comparisons = comparisons

    def run(
        self, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> Iterator[Change]:
        stack = [self._inside((), before, after)]
        while stack:
            for change in stack[-1]:
                if change.kind == "changed" and _is_to_open(change.old, change.new):
                    stack.append(self._inside(change.path, change.old, change.new))
                    break
                yield change
            else:
                stack.pop()

    def _inside(self, path: Path, old: Any, new: Any) -> Iterator[Change]:
        if isinstance(new, Mapping):
            return _in_document(path, old, new)
        ends = (0, 0) if len(old) == len(new) else self._ends(old, new)
        return _in_list(path, old, new, *ends)

    def _ends(self, old: Sequence[Any], new: Sequence[Any]) -> tuple[int, int]:
        """Return how many items are equal at the start, and then at the end."""
        longest = min(len(old), len(new))
        start = end = 0
        while start < longest and self._is_same(old[start], new[start]):
            start += 1
        longest -= start
        while end < longest and self._is_same(old[-1 - end], new[-1 - end]):
            end += 1
        return start, end

    def _is_same(self, old: Any, new: Any) -> bool:
        """Whether two values are equal; False once no comparisons are left."""
        stack = [iter([(old, new)])]
        while stack:
            for one, other in stack[-1]:
                self.comparisons -= 1
                if self.comparisons < 0:
                    return False
                if _may_differ(one, other):
                    if not _is_to_open(one, other) or len(one) != len(other):
                        return False
                    stack.append(_pairs(one, other))
                    break
            else:
                stack.pop()
        return True


def _in_document(
    path: Path, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Change]:
    for key, value in new.items():
        if key not in old:
            yield Change((*path, key), "added", None, value)
        elif _may_differ(old[key], value):
            yield Change((*path, key), "changed", old[key], value)
    for key, value in old.items():
        if key not in new:
            yield Change((*path, key), "removed", value, None)


def _in_list(
    path: Path, old: Sequence[Any], new: Sequence[Any], start: int, end: int
) -> Iterator[Change]:
    olds, news = len(old) - end, len(new) - end
    for at in range(start, min(olds, news)):
        if _may_differ(old[at], new[at]):
            yield Change((*path, at), "changed", old[at], new[at])
    for at in range(olds, news):
        yield Change((*path, at), "added", None, new[at])
    for at in range(news, olds):
        yield Change((*path, at), "removed", old[at], None)


def _pairs(old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """Pair the items of two containers of one size."""
    if isinstance(old, Mapping):
        return ((value, new.get(key, _MISSING)) for key, value in old.items())
    return zip(old, new, strict=True)


def _is_document(value: Any) -> bool:
    return type(value) is dict or isinstance(value, Mapping)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_to_open(old: Any, new: Any) -> bool:
    if _is_document(old):
        return _is_document(new)
    return _is_list(old) and _is_list(new)


def _may_differ(old: Any, new: Any) -> bool:
    """Whether two values differ, or are containers that have to be opened."""
    if old is new:
        return False
    kind, other = type(old), type(new)
    if kind is other and kind in _BY_VALUE:
        return bool(old != new)
    if kind in _PLAIN and other in _PLAIN:
        return kind is not other or not _is_same_float(old, new)
    if _is_container(old) or _is_container(new):
        return True
    return not _is_same_in_bson(old, new)


def _is_container(value: Any) -> bool:
    return _is_document(value) or _is_list(value)


def _is_same_float(old: float, new: float) -> bool:
    if old != old or new != new:  # NaN
        return old != old and new != new
    return old == new and math.copysign(1, old) == math.copysign(1, new)


def _is_same_in_bson(old: Any, new: Any) -> bool:
    if isinstance(old, dt.datetime) and isinstance(new, dt.datetime):
        return old == new
    try:
        return _to_bytes(old) == _to_bytes(new)
    except (BSONError, ValueError, TypeError, OverflowError, RecursionError):
        return type(old) is type(new) and bool(old == new)


def _to_bytes(value: Any) -> bytes:
    return bson.encode({"": value}, codec_options=CODEC)
