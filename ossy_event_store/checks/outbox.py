"""Checks of the outbox: its app is installed, and its table exists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage
from django.db import Error

from ..relational import outbox
from .messages import error, warning

# Only projects that call append_on_commit() import this module.
PUBLIC = "ossy_event_store.relational.on_commit"


def check_outbox_app(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check that a project that appends on commit has installed the app; no I/O."""
    if PUBLIC not in sys.modules or outbox.is_installed():
        return []
    return [
        error(
            "E006",
            "The project imports append_on_commit(), which keeps events in a table of "
            "an app that is not installed.",
            f"Add {outbox.APP!r} to INSTALLED_APPS, and run manage.py migrate.",
        )
    ]


def check_outbox_tables(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Look for the table in the databases that it may be in."""
    if sys.argv[1:2] == ["migrate"]:
        return []  # migrate is about to create it
    return [
        warning(
            "W019",
            f"The database {using!r} has no table for append_on_commit(using={using!r})"
            ", which raises ImproperlyConfigured there.",
            f"Run manage.py migrate --database {using}, or let a database router keep "
            f"the app {outbox.LABEL} away from it.",
        )
        for using in outbox.candidates()
        if using in (databases or ()) and not _has_table(using)
    ]


def _has_table(using: str) -> bool:
    try:
        return outbox.has_table(using)
    except Error:
        return True  # a database that is away says so itself
