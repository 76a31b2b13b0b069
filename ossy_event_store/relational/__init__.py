"""
Checkpoints in an SQL database, for subscriptions that write to one through Django.

``INSTALLED_APPS += ["ossy_event_store.relational"]`` and ``migrate`` make the table.
What a subscription writes and how far it came are then one transaction: each event has
its effect once, whatever breaks.
"""
