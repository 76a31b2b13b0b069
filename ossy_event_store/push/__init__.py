"""Push events to browsers as server-sent events."""

from .event_filter import EventFilter
from .views import EventSourceView

__all__ = ["EventFilter", "EventSourceView"]
