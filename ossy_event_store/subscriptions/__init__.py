"""Subscriptions: handlers that follow the events in global order."""

from .declaration import subscription

__all__ = ["subscription"]
