"""
No tables: events and snapshots live in MongoDB.

The module exists because Django tells only apps that have one when ``migrate`` is
done, which is when the indexes are made.
"""
