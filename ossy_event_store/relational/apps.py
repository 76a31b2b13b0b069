"""The app with the one table that the event store has in an SQL database."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class RelationalConfig(AppConfig):
    """``INSTALLED_APPS += ["ossy_event_store.relational"]`` is enough."""

    name = "ossy_event_store.relational"
    label = "ossy_event_store_relational"
    verbose_name = _("Event store: checkpoints")
