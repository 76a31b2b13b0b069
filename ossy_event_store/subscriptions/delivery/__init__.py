"""
Deliver events to a handler: at least once, or in a transaction with the checkpoint.

Each kind of delivery keeps the checkpoint and the parked streams in the database that
holds the effects of the events, and relies on that database alone.
"""

from .base import Delivered, Delivery, TooLarge, by_stream

__all__ = ["Delivered", "Delivery", "TooLarge", "by_stream"]
