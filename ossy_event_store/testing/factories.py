"""
Make objects of classes with ``@event``: with fixed values, or with Hypothesis.

Hypothesis is imported by ``events_of()`` only.
"""

from __future__ import annotations

import collections.abc as abc
import datetime as dt
import enum
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, TypeVar

from bson import ObjectId

from ..documents.catalogue.catalogue import current
from ..documents.catalogue.codecs.compiling import unwrapped
from ..documents.catalogue.codecs.parameters import parameters_of

if typing.TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

T = TypeVar("T")
Made = Callable[[], Any]  # later: a class may contain itself

_LISTS = (list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
_SETS = {set: set, abc.MutableSet: set, frozenset: frozenset, abc.Set: frozenset}
_DICTS = (dict, abc.Mapping, abc.MutableMapping)

_MOMENT = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
_FIXED: Mapping[Any, Any] = {
    bool: False,
    int: 1,
    float: 1.0,
    str: "text",
    bytes: b"bytes",
    dt.datetime: _MOMENT,
    dt.date: _MOMENT.date(),
    dt.time: _MOMENT.time(),
    dt.timedelta: dt.timedelta(days=1),
    Decimal: Decimal("1.00"),
    uuid.UUID: uuid.UUID(int=1),
    ObjectId: ObjectId("0" * 24),
}


class _Maker(Protocol):
    """Makes values of types: fixed ones, or strategies."""

    needs_all: bool

    def leaf(self, kind: Any, name: str) -> Any: ...
    def one_of(self, values: Sequence[Any]) -> Any: ...
    def either(self, makes: Sequence[Made]) -> Any: ...
    def several(self, item: Made, build: Callable[[Any], Any]) -> Any: ...
    def pairs(self, key: Made, value: Made) -> Any: ...
    def built(self, build: Callable[..., Any], parts: Mapping[str, Made]) -> Any: ...
    def nested(self, cls: Any, make: Made) -> Any: ...


class _Fixed:
    """Always the same values, and the shortest."""

    needs_all = False

    def leaf(self, kind: Any, name: str) -> Any:
        return name if kind is str and name else _FIXED[kind]

    def one_of(self, values: Sequence[Any]) -> Any:
        return values[0]

    def either(self, makes: Sequence[Made]) -> Any:
        return makes[0]()

    def several(self, item: Made, build: Callable[[Any], Any]) -> Any:
        return build(())

    def pairs(self, key: Made, value: Made) -> Any:
        return {}

    def built(self, build: Callable[..., Any], parts: Mapping[str, Made]) -> Any:
        return build(**{name: make() for name, make in parts.items()})

    def nested(self, cls: Any, make: Made) -> Any:
        return make()


class _Strategies:
    """Strategies of Hypothesis for values that can be stored."""

    needs_all = True

    def __init__(self) -> None:
        from hypothesis import strategies

        self.st = st = strategies
        self._nested: dict[Any, Any] = {}
        milliseconds = st.integers(0, 999).map(lambda ms: 1000 * ms)
        self._leaves = {
            bool: st.booleans(),
            int: st.integers(-(2**63), 2**63 - 1),
            float: st.floats(allow_nan=False, allow_infinity=False),
            str: st.text(),
            bytes: st.binary(),
            dt.datetime: st.builds(
                lambda at, us: at.replace(microsecond=us, tzinfo=dt.UTC),
                st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)),
                milliseconds,
            ),
            dt.date: st.dates(),
            dt.time: st.times(),
            dt.timedelta: st.timedeltas(),
            Decimal: st.decimals(-(10**15), 10**15, places=2, allow_nan=False),
            uuid.UUID: st.uuids(),
            ObjectId: st.binary(min_size=12, max_size=12).map(ObjectId),
        }

    def leaf(self, kind: Any, name: str) -> Any:
        return self._leaves[kind]

    def one_of(self, values: Sequence[Any]) -> Any:
        return self.st.sampled_from(values)

    def either(self, makes: Sequence[Made]) -> Any:
        return self.st.one_of([make() for make in makes])

    def several(self, item: Made, build: Callable[[Any], Any]) -> Any:
        return self.st.lists(item(), max_size=3).map(build)

    def pairs(self, key: Made, value: Made) -> Any:
        names = key().filter(lambda one: "\0" not in str(one))
        return self.st.dictionaries(names, value(), max_size=3)

    def built(self, build: Callable[..., Any], parts: Mapping[str, Made]) -> Any:
        return self.st.builds(build, **{n: make() for n, make in parts.items()})

    def nested(self, cls: Any, make: Made) -> Any:
        if cls not in self._nested:
            self._nested[cls] = self.st.deferred(lambda: make())
        return self._nested[cls]


class _Types:
    """
    Goes through the types of fields.

    Args:
        maker: makes the values.
        namespace: names of the function in which a class is defined.
    """

    def __init__(self, maker: _Maker, namespace: Mapping[str, Any]) -> None:
        self._maker = maker
        self._namespace = namespace

    def object(self, cls: Any, given: Mapping[str, Made]) -> Any:
        """Return what the maker makes of a class; some parameters are given."""
        fields = parameters_of(cls, self._namespace)
        if fields is None:
            raise TypeError(f"{cls!r} has no known value; give the field one.")
        parts = {
            str(one.parameter): partial(self.value, one.type, one.name)
            for one in fields
            if one.parameter not in given and (one.is_required or self._maker.needs_all)
        }
        return self._maker.built(cls, {**parts, **given})

    def value(self, kind: Any, name: str = "") -> Any:
        """Return what the maker makes of a type."""
        kind = unwrapped(kind)
        maker = self._maker
        if kind in (Any, object, None, type(None)):
            return maker.one_of([None])
        if isinstance(kind, type) and kind in _FIXED:
            return maker.leaf(kind, name)
        origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            # None first, so that a class that contains itself comes to an end.
            some = sorted(arguments, key=lambda one: one is not type(None))
            return maker.either([partial(self.value, one, name) for one in some])
        if origin is typing.Literal:
            return maker.one_of(arguments)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return maker.one_of(list(kind))
        return self._container(kind, origin, arguments)

    def _container(self, kind: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
        makes = [partial(self.value, one) for one in arguments if one is not ...]
        first = makes[0] if makes else partial(self.value, Any)
        if origin in _LISTS:
            return self._maker.several(first, list)
        if origin in _SETS:
            return self._maker.several(first, _SETS[origin])
        if origin in _DICTS:
            key, one = makes or [partial(self.value, str), partial(self.value, Any)]
            return self._maker.pairs(key, one)
        if origin is tuple:
            if not arguments or arguments[-1] is ...:
                return self._maker.several(first, tuple)
            parts = {f"item{at}": make for at, make in enumerate(makes)}
            return self._maker.built(lambda **some: tuple(some.values()), parts)
        if hasattr(kind, "_fields"):
            hints = typing.get_type_hints(kind)
            parts = {n: partial(self.value, hints[n], n) for n in kind._fields}
            return self._maker.built(kind, parts)
        return self._maker.nested(kind, partial(self.object, kind, {}))


def _declared(cls: type[T]) -> Mapping[str, Any]:
    """Return the namespace of a class with ``@event``."""
    declared = current().of_class.get(cls)
    if declared is None:
        raise TypeError(f"{cls!r} is no class with @event.")
    return declared.namespace


def event_factory(cls: type[T], **overrides: Any) -> Callable[..., T]:
    """
    Return a function that makes objects of a class with ``@event``.

    Fields with a default keep it. Others get a value of their type that is always the
    same: a text is the name of its field, a number is 1, a list is empty, what may be
    None is None.

    Args:
        cls: the class.
        overrides: values of fields; the function takes more of them.
    """
    namespace = _declared(cls)

    def make(**more: Any) -> T:
        given = {name: _constant(one) for name, one in {**overrides, **more}.items()}
        made: T = _Types(_Fixed(), namespace).object(cls, given)
        return made

    return make


def events_of(cls: type[T], **overrides: SearchStrategy[Any]) -> SearchStrategy[T]:
    """
    Return a strategy of Hypothesis for objects of a class with ``@event``.

    Args:
        cls: the class.
        overrides: strategies of fields, where the class allows less than their types
            say.
    """
    given = {name: _constant(one) for name, one in overrides.items()}
    found: SearchStrategy[T]
    found = _Types(_Strategies(), _declared(cls)).object(cls, given)
    return found


def _constant(value: Any) -> Made:
    return lambda: value
