"""The app with the table of checkpoints in an SQL database."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class RelationalConfig(AppConfig):
    """The configuration of the app; add its name to ``INSTALLED_APPS``."""

    name = "ossy_event_store.relational"
    label = "ossy_event_store_relational"
    verbose_name = _("Event store: checkpoints")
