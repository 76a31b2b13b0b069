"""Subscriptions: handlers that receive the events in global order."""

from .declaration import subscription

__all__ = ["subscription"]
