"""Values as Python expressions, with the imports that they need. Pure."""

from __future__ import annotations

import datetime as dt
import enum
import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import bson
from bson import DatetimeMS, DBRef, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.decimal128 import Decimal128

from ...display import visible
from ..codecs.fields import is_typed_dict
from ..codecs.parameters import parameters_of

WIDTH = 88
_STEP = 4  # blanks of an indent


class NoSource(ValueError):
    """A value has no expression: its class cannot be imported, or is not known."""


@dataclass(frozen=True)
class Group:
    """An expression with parts, which is laid out on one line or on several."""

    start: str
    #: Each with what stands in front of it: ``"to": `` or ``to=``.
    items: tuple[tuple[str, Expression], ...]
    end: str
    #: Whether a single item needs a comma.
    is_tuple: bool = False

    def flat(self) -> str:
        """Return it on one line."""
        parts = (f"{front}{flat(one)}" for front, one in self.items)
        comma = "," if self.is_tuple and len(self.items) == 1 else ""
        return f"{self.start}{', '.join(parts)}{comma}{self.end}"


Expression = str | Group


def flat(expression: Expression) -> str:
    """Return an expression on one line."""
    return expression if isinstance(expression, str) else expression.flat()


def laid_out(expression: Expression, indent: int = 0, before: int = 0) -> str:
    """
    Return an expression on as many lines as it needs.

    Args:
        expression: what to lay out.
        indent: blanks in front of the lines after the first.
        before: characters in front of the first one, and after the last.
    """
    line = flat(expression)
    if isinstance(expression, str) or not expression.items:
        return line
    if indent + before + len(line) <= WIDTH:
        return line
    inner = indent + _STEP
    items = "".join(
        f"{' ' * inner}{front}{laid_out(one, inner, len(front) + 1)},\n"
        for front, one in expression.items
    )
    return f"{expression.start}\n{items}{' ' * indent}{expression.end}"


class Source:
    """
    Makes expressions, and collects their imports.

    Args:
        reserved: names that mean something else there.
    """

    def __init__(self, *reserved: str) -> None:
        # By name: the module that has it; or the line that imports a module.
        self._imports: dict[str, str] = dict.fromkeys(reserved, "")

    def imports(self) -> list[str]:
        """Return the lines that import what the expressions name, sorted."""
        modules: dict[str, list[str]] = {}
        for name, origin in sorted(self._imports.items()):
            modules.setdefault(origin, []).append(name)
        modules.pop("", None)
        lines = [
            origin
            if origin.startswith("import ")
            else f"from {origin} import {', '.join(names)}"
            for origin, names in modules.items()
        ]
        return sorted(lines, key=lambda line: (line.startswith("from "), line))

    def value(self, value: Any) -> Expression:
        """
        Return the expression of a value.

        Raises:
            NoSource: it has none.
        """
        for kind, write in _WRITERS:
            if isinstance(value, kind) and not isinstance(value, enum.Enum):
                return write(self, value)
        return self._object(value)

    def attempt(self, value: Any) -> Expression | None:
        """Return the expression of a value, or None if it has none."""
        before = dict(self._imports)
        try:
            return self.value(value)
        except NoSource:
            self._imports = before
            return None

    def name(self, name: str, origin: str) -> str:
        """Return a name that is imported from a module, or by a line."""
        if self._imports.setdefault(name, origin) != origin:
            raise NoSource(f"{name} is the name of two things")
        return name

    def cls(self, cls: Any) -> str:
        """Return the name of a class of the project."""
        module, name = str(cls.__module__), str(cls.__qualname__)
        if "<locals>" in name or module in ("__main__", "builtins"):
            raise NoSource(f"{name} cannot be imported")
        first = name.partition(".")[0]
        self.name(first, module)
        return name

    def call(self, name: str, *arguments: Any, **named: Any) -> Group:
        """Return a call; what is no expression yet becomes one."""
        parts = [("", self.value(one)) for one in arguments]
        parts += [(f"{key}=", self.value(one)) for key, one in named.items()]
        return Group(f"{name}(", tuple(parts), ")")

    def bson(self, name: str, *arguments: Any) -> Group:
        """Return the call of a class of ``bson``."""
        return self.call(self.name(name, "bson"), *arguments)

    def dt(self) -> str:
        """Return the name of the module ``datetime``."""
        return self.name("dt", "import datetime as dt")

    def dict(self, value: Mapping[Any, Any]) -> Group:
        """Return the display of a dict."""
        items = ((f"{flat(self.value(k))}: ", self.value(v)) for k, v in value.items())
        return Group("{", tuple(items), "}")

    def items(
        self, start: str, items: Iterable[Any], end: str, *, is_tuple: bool = False
    ) -> Group:
        """Return the display of a list, a tuple or a set."""
        parts = tuple(("", self.value(one)) for one in items)
        return Group(start, parts, end, is_tuple)

    def _object(self, value: Any) -> Expression:
        cls: Any = type(value)
        if isinstance(value, enum.Enum):
            return self._member(cls, value)
        if is_typed_dict(cls) or (fields := parameters_of(cls, {})) is None:
            raise NoSource(f"{cls.__qualname__} has no expression")
        parts: dict[str, Any] = {}
        for one in fields:
            part = getattr(value, one.name)
            if type(part).__name__ != "UnsetType":  # a field of msgspec without a value
                parts[str(one.parameter)] = part
        parts.update(getattr(value, "model_extra", None) or {})
        if not all(map(str.isidentifier, parts)):
            raise NoSource(f"{cls.__qualname__} has a field that is no name")
        return self.call(self.cls(cls), **parts)

    def _member(self, cls: Any, value: enum.Enum) -> Expression:
        name = self.cls(cls)
        if value.name in cls.__members__:
            return f"{name}.{value.name}"
        return self.call(name, value.value)  # flags combine


# --- the types --------------------------------------------------------------


def text(value: str) -> str:
    """Return a string as it is written, in double quotes where that is easy."""
    found = visible(repr(str.__str__(value)))
    if found.startswith("'") and '"' not in found:
        return f'"{found[1:-1]}"'
    return found


def _bytes(source: Source, value: bytes) -> Expression:
    found = repr(bytes(value))
    plain = f'b"{found[2:-1]}"' if found[1] == "'" and '"' not in found else found
    if not isinstance(value, bson.Binary):
        return plain
    name = source.name("Binary", "bson")
    return Group(f"{name}(", (("", plain), ("", str(value.subtype))), ")")


def _float(source: Source, value: float) -> Expression:
    plain = float(value)
    return repr(plain) if math.isfinite(plain) else f'float("{plain}")'


def _integer(source: Source, value: int) -> Expression:
    plain = int(value)
    # Others come back from MongoDB like this, whatever they were.
    if isinstance(value, Int64) and -(2**31) <= plain < 2**31:
        return source.bson("Int64", plain)
    return repr(plain)


def _zone(source: Source, value: dt.datetime | dt.time) -> dict[str, Expression]:
    if value.tzinfo is None:
        return {}
    offset = value.utcoffset()
    if offset is None:
        raise NoSource("a time zone without an offset")
    name = f"{source.dt()}.UTC"
    if offset:
        name = f"dt.timezone({flat(source.value(offset))})"
    return {"tzinfo": name}


def _moment(source: Source, value: dt.datetime) -> Expression:
    parts = [value.year, value.month, value.day, value.hour, value.minute]
    parts += _without_zeros([value.second, value.microsecond])
    return _time_call(source, "datetime", parts, _zone(source, value), value.fold)


def _hour(source: Source, value: dt.time) -> Expression:
    parts = [
        value.hour,
        value.minute,
        *_without_zeros([value.second, value.microsecond]),
    ]
    return _time_call(source, "time", parts, _zone(source, value), value.fold)


def _time_call(
    source: Source,
    name: str,
    parts: list[int],
    zone: dict[str, Expression],
    fold: int,
) -> Group:
    items: list[tuple[str, Expression]] = [("", str(one)) for one in parts]
    items += [(f"{key}=", one) for key, one in zone.items()]
    if fold:
        items.append(("fold=", "1"))
    return Group(f"{source.dt()}.{name}(", tuple(items), ")")


def _without_zeros(parts: list[int]) -> list[int]:
    while parts and not parts[-1]:
        parts.pop()
    return parts


def _day(source: Source, value: dt.date) -> Expression:
    return source.call(f"{source.dt()}.date", value.year, value.month, value.day)


def _span(source: Source, value: dt.timedelta) -> Expression:
    names = ("days", "seconds", "microseconds")
    parts = {name: getattr(value, name) for name in names if getattr(value, name)}
    return source.call(f"{source.dt()}.timedelta", **parts)


def _decimal(source: Source, value: Decimal) -> Expression:
    name = source.name("Decimal", "decimal")
    return source.call(name, str(value))


def _uuid(source: Source, value: uuid.UUID) -> Expression:
    return source.call(source.name("UUID", "uuid"), str(value))


def _regex(source: Source, value: Any) -> Expression:
    if isinstance(value, re.Pattern):
        return source.call(
            f"{source.name('re', 'import re')}.compile", value.pattern, value.flags
        )
    arguments = [value.pattern, value.flags] if value.flags else [value.pattern]
    return source.bson("Regex", *arguments)


def _code(source: Source, value: bson.Code) -> Expression:
    scope = [] if value.scope is None else [value.scope]
    return source.bson("Code", str(value), *scope)


def _dbref(source: Source, value: DBRef) -> Expression:
    extra = {
        key: one
        for key, one in value.as_doc().items()
        if key not in ("$ref", "$id", "$db")
    }
    arguments: list[Any] = [value.collection, value.id]
    if value.database is not None or extra:
        arguments.append(value.database)
    return source.bson("DBRef", *arguments, *([extra] if extra else []))


def _tuple(source: Source, value: tuple[Any, ...]) -> Expression:
    if hasattr(value, "_fields"):
        return source.call(source.cls(type(value)), *value)
    return source.items("(", value, ")", is_tuple=True)


def _set(source: Source, value: set[Any] | frozenset[Any]) -> Expression:
    parts = sorted((source.value(one) for one in value), key=flat)
    items = tuple(("", one) for one in parts)
    if isinstance(value, frozenset):
        inside = ("", Group("{", items, "}"))
        return Group("frozenset(", (inside,) if items else (), ")")
    return Group("{", items, "}") if items else "set()"


_Writer = Callable[[Source, Any], Expression]
# The first that matches: a Code is a str, a bool is an int, a datetime is a date.
_WRITERS: tuple[tuple[Any, _Writer], ...] = (
    ((type(None), bool), lambda source, value: repr(value)),
    (bson.Code, _code),
    (str, lambda source, value: text(value)),
    (int, _integer),
    (float, _float),
    (bytes, _bytes),
    (dt.datetime, _moment),
    (dt.date, _day),
    (dt.time, _hour),
    (dt.timedelta, _span),
    (Decimal, _decimal),
    (Decimal128, lambda source, value: source.bson("Decimal128", str(value))),
    (uuid.UUID, _uuid),
    (ObjectId, lambda source, value: source.bson("ObjectId", str(value))),
    (DatetimeMS, lambda source, value: source.bson("DatetimeMS", int(value))),
    (Timestamp, lambda source, at: source.bson("Timestamp", at.time, at.inc)),
    (MinKey, lambda source, value: source.bson("MinKey")),
    (MaxKey, lambda source, value: source.bson("MaxKey")),
    ((bson.Regex, re.Pattern), _regex),
    (DBRef, _dbref),
    (Mapping, lambda source, value: source.dict(value)),
    (list, lambda source, value: source.items("[", value, "]")),
    (tuple, _tuple),
    ((set, frozenset), _set),
)
