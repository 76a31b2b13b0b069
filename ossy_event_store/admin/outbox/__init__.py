"""The pages of an outbox, among those of the subscriptions."""

from __future__ import annotations

from .pages import OutboxPages

__all__ = ["OutboxPages"]
