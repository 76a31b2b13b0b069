"""Push events to browsers as server-sent events."""

from .live_feed import EventFilter
from .views import EventSourceView

__all__ = ["EventFilter", "EventSourceView"]
