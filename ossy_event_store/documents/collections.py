"""The names of the store's collections."""

EVENTS = "eventstore"
SNAPSHOTS = "aggregates"
LEASES = "leases"
POSITIONS = "positions"
SUBSCRIPTIONS = "subscriptions"
PARKED = "parked"
SKIPPED = "skipped"
