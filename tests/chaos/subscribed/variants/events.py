"""The events of a scenario, their positions, and what is left at its end."""

from __future__ import annotations

from typing import Any

from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.connection import Store
from ossy_event_store.positions.sequencer import Sequencer

from ...database import Document
from ...ledger import Ledger, entry
from ..effects import Effect, Effects

EVENTS = 40  # of a scenario
STREAMS = 8


def made(number: int, stream: str) -> Document:
    return {
        **entry(f"t-{number}", number),
        "aggregateId": stream,
        "aggregateType": Ledger.aggregate_type,
    }


def assign_positions(sequencer: Sequencer) -> None:
    """Let a sequencer work until there is nothing left to do."""
    quiet = 0
    while quiet < 2:
        sequencer.advance(0.05)
        quiet = quiet + 1 if sequencer.is_caught_up else 0


def what_is_left(store: Store, **more: Any) -> Effects:
    order = [("aggregateId", 1), ("aggregateVersion", 1)]
    return Effects(
        list(connection.raw(store.events).find(sort=order)),
        list(connection.raw(store.positions).find(sort=[("_id", 1)])),
        **more,
    )


def effect_of(event: Document) -> Effect:
    stream, version = event["aggregateId"], event["aggregateVersion"]
    return Effect(str(event["_id"]), stream, version, event["position"])
