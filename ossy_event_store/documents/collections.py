"""The names of the store's collections, and the ids of documents in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The names that the Node package gives; the others carry a prefix, since a project may
# have collections called "positions" or "subscriptions" in the same database.
EVENTS = "eventstore"
SNAPSHOTS = "aggregates"
LEASES = "eventstore_leases"
POSITIONS = "eventstore_positions"
SUBSCRIPTIONS = "eventstore_subscriptions"
PARKED = "eventstore_parked"
SKIPPED = "eventstore_skipped"
DAMAGED = "eventstore_damaged"
# Empty; it marks a database that tests may empty.
TEST_RUN = "eventstore_test_run"

# Four kinds of documents are among the leases, each with its own ids: users who may
# only append may write there, and the collection may be dropped at any time.

# Leases, in the sense of ``mongodb.leases``.
STARTUP_LEASE = "rebuild"
SEQUENCER_LEASE = "sequencer"


def subscription_lease(name: str) -> str:
    """Return the id of the lease under which a subscription runs."""
    return f"subscription {name}"


# How far the sequencer's first scan of all events is.
SEQUENCER_SCAN = "sequencer scan"


def rebuild_progress(share: object = None) -> str:
    """Return the id of the progress of a full rebuild, or of a share of it."""
    return f"rebuild progress {share}" if share else "rebuild progress"


# What the last rebuild counted: the prefix of the ids, which the aggregate type ends.
TALLIES = "tally "


# --- whose a document is ----------------------------------------------------

# Of these fields, each document of ours has one.
_SIGNS = {
    POSITIONS: {"eventId"},
    SUBSCRIPTIONS: {"position"},
    PARKED: {"subscription"},
    SKIPPED: {"subscription"},
    DAMAGED: {"heldUp", "accepted"},
}
OWN = (LEASES, *_SIGNS)


def is_ours(collection: str, document: Mapping[str, Any]) -> bool:
    """Whether the store wrote a document of one of the collections ``OWN``."""
    if collection != LEASES:
        return not _SIGNS[collection].isdisjoint(document)
    name = document["_id"]
    return isinstance(name, str) and name.startswith(
        (STARTUP_LEASE, SEQUENCER_LEASE, subscription_lease(""), TALLIES)
    )
