"""A MongoDB server for development and tests, started on demand."""

from .server import SMALL_JOURNAL, find_mongod, start, stop

__all__ = ["SMALL_JOURNAL", "find_mongod", "start", "stop"]
