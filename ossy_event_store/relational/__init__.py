"""
What the store keeps in an SQL database: checkpoints, and the outbox.

Add ``"ossy_event_store.relational"`` to ``INSTALLED_APPS`` and run ``migrate``, which
creates the tables. A subscription that writes through Django then writes its effects
and its checkpoint in one transaction, so each event takes effect exactly once; and
``append_on_commit()`` writes events in your transactions, to append them afterwards.
"""
