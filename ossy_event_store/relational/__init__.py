"""
Checkpoints in an SQL database, for subscriptions that write to it through Django.

Add ``"ossy_event_store.relational"`` to ``INSTALLED_APPS`` and run ``migrate``, which
creates the table. A subscription then writes its effects and its checkpoint in one
transaction, so each event takes effect exactly once.
"""
