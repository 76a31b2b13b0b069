"""Checks of the settings and of the declared subscriptions; they do no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..conf import SETTING, get_settings, problems
from ..mongodb.location import Source, check_options, engine_of, resolve
from ..subscriptions import declaration
from ..subscriptions.checkpoints import RELATIONAL
from ..subscriptions.declaration import Subscription
from .messages import error, warning


def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check ``OSSY_EVENT_STORE``, and where it says MongoDB is."""
    found = list(problems(getattr(django_settings, SETTING, {})))
    if found:
        return [error("E001", problem.message, problem.hint) for problem in found]
    try:
        source = resolve()
        check_options(source)
    except ImproperlyConfigured as invalid:
        return [error("E002", str(invalid))]
    return list(_ambiguities(source))


def _ambiguities(source: Source) -> Iterator[CheckMessage]:
    settings = get_settings()
    if settings.URL and settings.DATABASE:
        yield warning(
            "W001",
            f"{SETTING} has both URL and DATABASE; URL is used.",
            "Remove one of them.",
        )
    if source.alias and engine_of(source.alias) == "djongo":
        database = connections.settings[source.alias]
        if database.get("HOST") and not (database.get("CLIENT") or {}).get("host"):
            yield warning(
                "W002",
                f"DATABASES[{source.alias!r}] has a HOST, which djongo ignores: djongo "
                "and the event store connect to localhost.",
                "Write 'CLIENT': {'host': …} instead.",
            )


def check_subscriptions(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check that the app with the tables that subscriptions need is installed."""
    return list(_without_tables(declaration.registered_subscriptions().values()))


def _without_tables(declared: Iterable[Subscription]) -> Iterator[CheckMessage]:
    if apps.is_installed(RELATIONAL):
        return
    for subscription in declared:
        if subscription.using is not None:
            yield error(
                "E003",
                f"The subscription {subscription.name!r} writes to "
                f"DATABASES[{subscription.using!r}], which has no table for its "
                "checkpoint.",
                f"Add {RELATIONAL!r} to INSTALLED_APPS, and run manage.py migrate "
                f"--database {subscription.using}.",
            )
