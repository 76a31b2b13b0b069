"""
How events reach a handler: by themselves, or in one transaction with the checkpoint.

Each kind of delivery keeps the checkpoint, and the parked streams, in the database that
holds what the events led to, and that database decides.
"""

from .base import Delivered, Delivery, TooLarge, by_stream

__all__ = ["Delivered", "Delivery", "TooLarge", "by_stream"]
