"""
Register the aggregate classes of a project by type, and discover them in its apps.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

from ..documents.event_document import check_id
from ..exceptions import UnknownAggregateType
from ..streams.reducers import check_reducer, name_of
from . import Aggregate

MODULE = "aggregate"

R = TypeVar("R", bound=type)

_registered: dict[str, Any] = {}
_listeners: list[Callable[[], object]] = []


def register_aggregate(Root: R) -> R:
    """
    Register an aggregate class for rebuilds; also a class decorator.

    Returns:
        The class itself. Registering a class again is not an error.

    Raises:
        ImproperlyConfigured: the class is not an aggregate class, or another class
            has the same ``aggregate_type``.
    """
    check_reducer(Root)
    kind: str = Root.aggregate_type  # type: ignore[attr-defined]
    other = _registered.get(kind)
    # Importing a module again, as importlib.reload does, creates the class again.
    if other is not None and name_of(other) != name_of(Root):
        raise ImproperlyConfigured(
            f"Two aggregate classes have the aggregate_type {kind!r}: {name_of(other)} "
            f"and {name_of(Root)}. Give each class its own."
        )
    _registered[kind] = Root
    for listener in _listeners:
        listener()
    return Root


def after_each(listener: Callable[[], object]) -> None:
    """Call a function after each registration from now on, even after ``ready()``."""
    if listener not in _listeners:
        _listeners.append(listener)


def registered_aggregates() -> dict[str, Any]:
    """Return the registered classes, by type and in order of type."""
    return dict(sorted(_registered.items()))


def root_of(aggregate_type: str) -> Any:
    """
    Return the class registered under a type.

    Raises:
        UnknownAggregateType: no class is registered under it.
    """
    check_id(aggregate_type, "aggregate_type")
    try:
        return _registered[aggregate_type]
    except KeyError:
        raise UnknownAggregateType(aggregate_type, sorted(_registered)) from None


def discover() -> Sequence[str]:
    """
    Import the module ``aggregate`` of every installed app and register its classes.

    Returns:
        The names of the modules found.

    Raises:
        ImproperlyConfigured: a module's exports are wrong; names the module.
        Exception: whatever a module raises during its import, unchanged.
    """
    autodiscover_modules(MODULE)
    found = []
    for app in apps.get_app_configs():
        name = f"{app.name}.{MODULE}"
        if (module := sys.modules.get(name)) is not None:
            found.append(name)
            _register_exports(module)
    return found


def _register_exports(module: Any) -> None:
    """Register a module's exports ``Aggregate`` and ``id``, if it has them."""
    Root = getattr(module, "Aggregate", None)
    name = getattr(module, "id", None)
    if Root is Aggregate:  # the module imported the store's own class
        Root = None
    if name is builtins.id:
        name = None
    if Root is None and name is None:
        return
    where = module.__name__
    if Root is None:
        raise ImproperlyConfigured(
            f"{where} exports id = {name!r} but no Aggregate. Export both, or decorate "
            "its classes with @register_aggregate."
        )
    try:
        check_reducer(Root)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"{where}.Aggregate: {error}") from None
    if name is None:
        raise ImproperlyConfigured(
            f"{where} exports Aggregate ({name_of(Root)}) but no id. Add "
            f"id = {Root.aggregate_type!r}."
        )
    if name != Root.aggregate_type:
        raise ImproperlyConfigured(
            f"{where}: id is {name!r}, but {name_of(Root)}.aggregate_type is "
            f"{Root.aggregate_type!r}. They must be equal."
        )
    register_aggregate(Root)
