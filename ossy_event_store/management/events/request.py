"""
What one call of ``manage.py events`` asks for.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pymongo
from django.core.management.base import CommandError, OutputWrapper

from ...documents.bson_types import Document
from ...event_store.query.lazy_query import EventQuery
from ...exceptions import EventStoreError, StoreUnavailable
from ..commands._base import WRONG_USE
from .arguments import ALL, SECONDS
from .filters import query_of
from .output import EventWriter, Output
from .template import Template

# The server reads every event for these, or every one that the filters find.
_LONG = ("stats", "types")


@dataclass(frozen=True)
class Request:
    """The options of a call, and where its results and its notes go."""

    options: Mapping[str, Any]
    output: Output
    err: OutputWrapper

    def __getitem__(self, name: str) -> Any:
        """Return an option; None if the subcommand has no such one."""
        return self.options.get(name)

    def query(self) -> EventQuery:
        """Return the query of the filters."""
        with checked():
            return query_of(self.options, self.output.times)

    def time(self, option: str) -> dt.datetime:
        """Return the time that an option names."""
        with checked():
            return self.output.times.parsed(self[option], f"--{option}")

    def limit(self, default: int | None) -> int | None:
        """Return how many events are wanted; None for all."""
        given = self["limit"]
        if given is None:
            return default
        return None if given == ALL else int(given)

    def writer(self, *, is_live: bool = False) -> EventWriter:
        """Return what writes the events in the form that is asked for."""
        forms = [name for name in ("json", "jsonl", "format") if self[name]]
        if len(forms) > 1:
            raise wrong(f"--{forms[0]} cannot be combined with --{forms[1]}.")
        if is_live and forms == ["json"]:
            raise wrong("--json cannot be combined with --follow; use --jsonl.")
        form: str | Template = forms[0] if forms else "text"
        if form == "format":
            with checked():
                form = Template(self["format"], self.output.times)
        return EventWriter(self.output, form, is_live=is_live)

    def note(self, text: str) -> None:
        """Write something for people to stderr."""
        if self["verbosity"] != 0:
            self.err.write(text, lambda line: line)

    @property
    def seconds(self) -> float | None:
        """How long it may take; None if only the setting ``TIMEOUT`` bounds it."""
        given: float | None = self["max_time"]
        if given is None:
            is_long = self["scan"] or self["text"] or self["action"] in _LONG
            return SECONDS if is_long else None
        if not 0 < given < float("inf"):
            raise wrong(f"--max-time must be a number of seconds, not {given:g}.")
        return given

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Bound what is inside by ``--max-time``."""
        seconds = self.seconds
        if seconds is None:
            yield
            return
        end = time.monotonic() + seconds
        try:
            with pymongo.timeout(seconds):
                yield
        except StoreUnavailable:
            if time.monotonic() < end:
                raise
            raise CommandError(
                f"It took longer than --max-time {seconds:g}; there may be more. "
                "Narrow it, as with --since, or allow more time."
            ) from None


def wrong(message: str) -> CommandError:
    """Return the error of a wrong use."""
    return CommandError(message, returncode=WRONG_USE)


@contextmanager
def checked() -> Iterator[None]:
    """Let a wrong value be one of the command line, not a fault of the program."""
    try:
        yield
    except EventStoreError:
        raise
    except (TypeError, ValueError) as error:
        raise wrong(str(error)) from None


def closed(events: Iterable[Document]) -> Iterator[Document]:
    """Iterate over events, and close what reads them where the iteration ends."""
    reading: Any = iter(events)
    with closing(reading):
        yield from reading
