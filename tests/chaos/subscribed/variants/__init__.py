"""
Positions and subscriptions that are weaker than ours, each in one point.

A scenario is the same for the real ones and for the weak ones. The seed alone decides
in which order things happen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.projections.writer import Writer
from ossy_event_store.subscriptions.delivery.at_least_once import AtLeastOnce
from ossy_event_store.subscriptions.delivery.mongodb_transaction import (
    InMongoDBTransaction,
)
from ossy_event_store.subscriptions.delivery.sql_transaction import InSQLTransaction

from ..effects import Effects
from .crashes import CheckpointFirst, OutsideOfTransaction, crash_in_a_handler
from .parking import (
    SQL,
    MongoDBDecides,
    ParksAtTheLast,
    WritesApart,
    end_after_a_skip,
    end_in_a_release,
    fail_at_what_is_applied,
    fail_twice_in_a_batch,
    retry_before_the_checkpoint,
)
from .sequencing import (
    AssignedAfter,
    ByCounter,
    ByCreated,
    CertifiesEarly,
    end_in_a_scan,
    overtake,
)

__all__ = ["SQL", "VARIANTS", "Variant"]


@dataclass
class Variant:
    scenario: Callable[..., Effects]
    as_it_is: Callable[..., Any]
    weak: Callable[..., Any]
    #: What the checker finds.
    finds: str
    #: Whether it needs an SQL database, under the alias ``SQL``.
    in_sql: bool = False


AT_LEAST_ONCE = partial(crash_in_a_handler, session=False)
EXACTLY_ONCE = partial(crash_in_a_handler, session=True)

VARIANTS = {
    "position by counter before commit": Variant(
        overtake, AssignedAfter, ByCounter, "missed"
    ),
    "position by created": Variant(overtake, AssignedAfter, ByCreated, "missed"),
    "certified during a scan": Variant(
        end_in_a_scan, Sequencer, CertifiesEarly, "without a position"
    ),
    "checkpoint before effect": Variant(
        AT_LEAST_ONCE, AtLeastOnce, CheckpointFirst, "missed"
    ),
    "effect and checkpoint apart": Variant(
        EXACTLY_ONCE, InMongoDBTransaction, OutsideOfTransaction, "doubled"
    ),
    "parked at the last failure of a batch": Variant(
        fail_twice_in_a_batch, Writer, ParksAtTheLast, "missed"
    ),
    "parked though it is applied": Variant(
        fail_at_what_is_applied, Writer, WritesApart, "doubled"
    ),
    "released before what the documents have": Variant(
        retry_before_the_checkpoint, Writer, WritesApart, "missed"
    ),
    "released before its row": Variant(
        end_in_a_release, InSQLTransaction, MongoDBDecides, "doubled", in_sql=True
    ),
    "skipped before its row": Variant(
        end_after_a_skip,
        InSQLTransaction,
        MongoDBDecides,
        "done though skipped",
        in_sql=True,
    ),
}
