"""The names of the store's collections, and the ids of the documents in ``leases``."""

from __future__ import annotations

EVENTS = "eventstore"
SNAPSHOTS = "aggregates"
LEASES = "leases"
POSITIONS = "positions"
SUBSCRIPTIONS = "subscriptions"
PARKED = "parked"
SKIPPED = "skipped"
DAMAGED = "eventstore_damaged"

# Four kinds of documents are in ``leases``, each with its own ids: users who may only
# append may write there, and the collection may be dropped at any time.

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
