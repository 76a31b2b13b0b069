"""
``events show`` and ``events open``: one event.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.urls import NoReverseMatch, reverse

from ...aggregate import Aggregate
from ...aggregate.registry import root_of
from ...documents.bson_types import Document
from ...documents.catalogue.as_python.events import source_of_event
from ...documents.display import brief, visible
from .locating import event_of
from .output import Output
from .request import Request, wrong
from .template import NOTHING


def show(request: Request) -> None:
    """Print an event, and the state that it led to."""
    output = request.output
    if request["as_test"] and (request["json"] or request["state"]):
        raise wrong("--as-test cannot be combined with --json or --state.")
    event = event_of(request["event"])
    if request["as_test"]:
        output.text(source_of_event(event).rstrip("\n"))
        return
    state = _state_after(event) if request["state"] else None
    if request["json"]:
        document = output.event_as_json(event)
        if state is not None:
            document["state"] = output.as_json(state)
        output.json(document)
        return
    output.fields(_rows(event, output))
    output.text("\nPayload")
    output.text(output.tall(event.get("payload")))
    if state is not None:
        output.text(f"\nState at version {event['aggregateVersion']}")
        output.text(output.tall(state))


def open_page(request: Request) -> None:
    """Print the address of an event's page in the admin."""
    event = event_of(request["event"])
    path = _path_of(event) if apps.is_installed("django.contrib.admin") else None
    if path is None:
        raise CommandError("This project has no admin site, or no URL leads to it.")
    request.output.text(visible(request["base_url"].rstrip("/") + path))


def _path_of(event: Document) -> str | None:
    from ...admin.addresses import in_address  # it imports Django's admin

    address = in_address(event["_id"])
    try:
        return reverse("admin:ossy_event_store_event_change", args=[address])
    except NoReverseMatch:
        return None


def _rows(event: Document, output: Output) -> Iterator[tuple[str, str]]:
    def text(name: str) -> str:
        value = event.get(name)
        return NOTHING if value is None else visible(str(value))

    yield "Event", text("_id")
    version = event.get("typeVersion")
    yield "Type", text("type") + (f", version {version}" if version else "")
    kind, number = text("aggregateType"), text("aggregateVersion")
    yield "Stream", f"{text('aggregateId')} ({kind}), version {number}"
    yield "Position", text("position")
    yield "Recorded", output.times.shown(event.get("created"))
    yield "User", text("createdBy")
    if tags := event.get("tags"):
        yield "Tags", brief(tags)
    yield "Metadata", brief(event.get("metadata") or {}, 64_000)


def _state_after(event: Document) -> Any:
    stream, version = event["aggregateId"], event["aggregateVersion"]
    Root = root_of(event["aggregateType"])
    return Aggregate.of(Root, stream, at_version=version).view()
