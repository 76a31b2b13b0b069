"""Discover the event types and upcasters that the apps of a project declare."""

from __future__ import annotations

from django.utils.module_loading import autodiscover_modules

MODULE = "events"


def discover() -> None:
    """
    Import the module ``events`` of every installed app.

    A module of that name that declares nothing is imported for nothing, as Django does
    with modules ``admin``.

    Raises:
        Exception: whatever a module raises during its import, with a note that says why
            it is imported.
    """
    try:
        autodiscover_modules(MODULE)
    except Exception as error:
        error.add_note(
            f"ossy_event_store imports the module {MODULE} of each installed app, "
            "since it may declare event types. If this one has another purpose, make "
            "it importable or rename it."
        )
        raise
