"""The app: discover what is declared, offer checks, make indexes after ``migrate``."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class OssyEventStoreConfig(AppConfig):
    """``INSTALLED_APPS += ["ossy_event_store"]`` is enough."""

    name = "ossy_event_store"
    label = "ossy_event_store"
    verbose_name = _("Event store")

    def ready(self) -> None:
        """Discover what the project declares; no I/O."""
        from . import (
            checks,
            following,
            migrate,
            projections,
            registry,
            startup,
            subscriptions,
        )

        checks.register()
        registry.discover()
        projections.discover()
        subscriptions.discover()
        following.register()
        post_migrate.connect(
            migrate.ensure_indexes,
            sender=self,
            dispatch_uid="ossy_event_store.ensure_indexes",
        )
        startup.begin()
