"""The aggregate whose snapshots follow."""

from ossy_event_store import register_aggregate

from ..ledger import Ledger

register_aggregate(Ledger)
