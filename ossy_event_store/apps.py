"""The app: discovers what a project declares, registers checks and receivers."""

from __future__ import annotations

import logging

from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class OssyEventStoreConfig(AppConfig):
    """``INSTALLED_APPS += ["ossy_event_store"]`` is enough."""

    name = "ossy_event_store"
    label = "ossy_event_store"
    verbose_name = _("Event store")

    def ready(self) -> None:
        """Discover what the project declares; no I/O."""
        from . import checks
        from .aggregate import registry
        from .documents.catalogue import discovery
        from .documents.masking import MaskingFilter
        from .mongodb import location
        from .post_migrate import ensure_indexes
        from .projections import projection
        from .rebuild import on_startup
        from .subscriptions import declaration, snapshot_subscription

        location.remember_real_names()
        logging.getLogger("ossy_event_store").addFilter(MaskingFilter())
        checks.register()
        discovery.discover()
        registry.discover()
        projection.discover()
        declaration.discover()
        snapshot_subscription.register()
        registry.after_each(snapshot_subscription.register)
        # Django sends it for each app. If the indexes cannot be created, the command
        # fails, but not before the other apps have done what they do after it.
        last = [app for app in apps.get_app_configs() if app.models_module][-1]
        post_migrate.connect(
            ensure_indexes,
            sender=last,
            dispatch_uid="ossy_event_store.ensure_indexes",
        )
        on_startup.begin()
