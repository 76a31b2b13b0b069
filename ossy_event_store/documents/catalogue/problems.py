"""Find what is wrong with the declarations of a project, as a whole. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .declaration import Declarations, Upcaster, name_of_function

Step = tuple[str, int]  # a type and a version of it


def problems(declared: Declarations) -> Iterator[str]:
    """
    Yield what is wrong, each as a sentence that names what to change.

    Two classes or upcasters for one name, an alias that is taken, a version without a
    way to the current one, a cycle.
    """
    yield from _taken_names(declared)
    yield from _doubled_upcasters(declared.upcasters)
    versions = current_versions(declared)
    yield from _gaps(declared, versions)
    yield from _wrong_targets(declared.upcasters, versions)
    yield from _cycles(declared.upcasters)


def current_versions(declared: Declarations) -> dict[str, int]:
    """Return the version of each type: that of its class, or after its upcasters."""
    versions: dict[str, int] = {}
    for one in declared.upcasters:
        versions[one.type] = max(versions.get(one.type, 1), one.version + 1)
    return versions | {one.name: one.version for one in declared.types}


def _taken_names(declared: Declarations) -> Iterator[str]:
    places: dict[str, list[str]] = defaultdict(list)
    for one in declared.types:
        places[one.name].append(_class(one.cls))
    for name, classes in places.items():
        if len(classes) > 1:
            yield (
                f"Event type {name!r} has {len(classes)} classes: "
                f"{' and '.join(classes)}. Give each class its own name."
            )
    taken = {name: f"the name of {classes[0]}" for name, classes in places.items()}
    taken |= {
        one.type: f"the type of {name_of_function(one.function)}"
        for one in declared.upcasters
        if one.type not in taken
    }
    for one in declared.types:
        for alias in one.aliases:
            if alias in taken:
                yield (
                    f"{_class(one.cls)} has the alias {alias!r}, which is "
                    f"{taken[alias]}. Remove one of them."
                )
            else:
                taken[alias] = f"an alias of {_class(one.cls)}"


def _doubled_upcasters(upcasters: Iterable[Upcaster]) -> Iterator[str]:
    places: dict[Step, list[str]] = defaultdict(list)
    for one in upcasters:
        places[one.type, one.version].append(name_of_function(one.function))
    for (name, version), functions in places.items():
        if len(functions) > 1:
            yield (
                f"Event type {name!r} has {len(functions)} upcasters from version "
                f"{version}: {' and '.join(functions)}. Keep one."
            )


def _gaps(declared: Declarations, versions: Mapping[str, int]) -> Iterator[str]:
    known = {(one.type, one.version) for one in declared.upcasters}
    for name, current in versions.items():
        for version in range(1, current):
            if (name, version) not in known:
                yield (
                    f"Event type {name!r} is at version {current}, but has no upcaster "
                    f"from version {version}. Declare @upcaster({name!r}, {version})."
                )
    for one in declared.upcasters:
        if one.version >= versions[one.type]:
            yield (
                f"{name_of_function(one.function)} is an upcaster from version "
                f"{one.version} of {one.type!r}, whose class has version "
                f"{versions[one.type]}. Raise the version of the class."
            )


def _wrong_targets(
    upcasters: Sequence[Upcaster], versions: Mapping[str, int]
) -> Iterator[str]:
    for one in upcasters:
        for name, version in one.into.items():
            # A type that is not in the catalogue has one version only.
            if version > versions.get(name, 1):
                yield (
                    f"{name_of_function(one.function)} leads into {name!r} at version "
                    f"{version}, but that type has version {versions.get(name, 1)}."
                )


def _cycles(upcasters: Sequence[Upcaster]) -> Iterator[str]:
    steps: dict[Step, list[Step]] = defaultdict(list)
    for one in upcasters:
        steps[one.type, one.version] += one.into.items()
        steps[one.type, one.version].append((one.type, one.version + 1))
    done: set[Step] = set()
    for start in list(steps):
        yield from _cycles_from(start, steps, done)


def _cycles_from(
    start: Step, steps: Mapping[Step, Sequence[Step]], done: set[Step]
) -> Iterator[str]:
    """Yield the cycles that can be reached from a step, without recursion."""
    path: list[Step] = []
    work: list[tuple[Step, bool]] = [(start, False)]
    while work:
        step, is_left = work.pop()
        if is_left:
            path.pop()
            done.add(step)
        elif step in path:
            yield _cycle([*path[path.index(step) :], step])
        elif step not in done:
            path.append(step)
            work.append((step, True))
            work += ((after, False) for after in steps.get(step, ()))


def _cycle(steps: Sequence[Step]) -> str:
    names = " -> ".join(f"{name} version {version}" for name, version in steps)
    return f"Upcasters form a cycle: {names}. An event would never be current."


def _class(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
