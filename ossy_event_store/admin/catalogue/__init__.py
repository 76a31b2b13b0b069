"""The page of the event types, among those of the events."""

from __future__ import annotations

from .pages import CataloguePages

__all__ = ["CataloguePages"]
