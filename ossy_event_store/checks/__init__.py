"""
System checks: of the settings, of a deployment, and of the server.

Checks of the settings do no I/O. Checks of the server are tagged ``database`` and run
where Django runs such checks: in ``check --database ALIAS`` and in ``migrate``. What
``migrate`` itself repairs is never an error, or ``migrate`` could not run.
"""

from __future__ import annotations

from django.core import checks

from .deployment import check_deployment
from .event_types import check_event_types
from .messages import CATALOGUE
from .outbox import check_outbox_app, check_outbox_tables
from .server import check_server
from .settings import check_settings, check_subscriptions

__all__ = [
    "CATALOGUE",
    "check_deployment",
    "check_event_types",
    "check_outbox_app",
    "check_outbox_tables",
    "check_server",
    "check_settings",
    "check_subscriptions",
    "register",
]


def register() -> None:
    """Register the checks with Django; called by ``ready()``."""
    checks.register(check_settings)
    checks.register(check_subscriptions)
    checks.register(check_event_types)
    checks.register(check_outbox_app)
    checks.register(check_outbox_tables, checks.Tags.database)
    checks.register(check_server, checks.Tags.database)
    checks.register(check_deployment, checks.Tags.security, deploy=True)
