"""``manage.py events``: look at events, streams and states on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...exceptions import (
    AggregateNotFound,
    EventNotFound,
    InvalidQuery,
    PositionNotAssigned,
    UnknownAggregateType,
    VersionNotFound,
)
from ..events import counting, listing, single, states, tracing
from ..events.arguments import add_subcommands
from ..events.filters import in_options
from ..events.mcp import server
from ..events.output import Output, style_for
from ..events.request import Request, checked, wrong
from ..events.times import Times
from ._base import WRONG_USE, Parser, StoreCommand, discard_stdout

_ACTIONS: Mapping[str, Callable[[Request], None]] = {
    "tail": listing.tail,
    "show": single.show,
    "stream": states.stream,
    "search": listing.search,
    "trace": tracing.trace,
    "stats": counting.stats,
    "types": counting.types,
    "count": counting.count,
    "mcp": server.serve,
    "open": single.open_page,
}
# What somebody asked for does not exist.
_NOT_FOUND = (
    *(AggregateNotFound, EventNotFound, PositionNotAssigned, UnknownAggregateType),
    VersionNotFound,
)


class Command(StoreCommand):
    """Look at events; it reads, and writes nothing."""

    help = (
        "Prints events: the last ones and new ones, one of them, a stream with its "
        "state at any time, what matches a filter, what led to what, and counts. It "
        "only reads."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands."""
        add_subcommands(parser, Parser)

    def run(self, **options: Any) -> None:
        """Run a subcommand."""
        with self._complaining(options), self._to_stdout():
            if options["utc"] and options["tz"] is not None:
                raise wrong("--utc cannot be combined with --tz.")
            with checked():
                times = Times.of("UTC" if options["utc"] else options["tz"])
            force = bool(options.get("force_color"))
            style = style_for(self.stdout, self.style, force=force)
            output = Output(self.stdout, style, times)
            _ACTIONS[options["action"]](Request(options, output, self.stderr))

    @contextmanager
    def _complaining(self, options: Mapping[str, Any]) -> Iterator[None]:
        """Turn wrong values into errors that name the options."""
        try:
            yield
        except InvalidQuery as error:
            text = in_options(str(error))
            text = text[:1].upper() + text[1:]
            if options.get("follow"):
                text += " With -n 0, only new events are printed, which need no index."
            raise CommandError(text, returncode=WRONG_USE) from None
        except _NOT_FOUND as error:
            raise CommandError(str(error), returncode=WRONG_USE) from None

    @contextmanager
    def _to_stdout(self) -> Iterator[None]:
        """End in silence if nobody reads on, as ``head`` does not."""
        try:
            yield
            self.stdout.flush()
        except BrokenPipeError:
            self._give_up()
        except OSError as error:
            self._give_up()
            reason = f"stdout: {error.strerror or error}. The output is not complete."
            raise CommandError(reason) from None

    def _give_up(self) -> None:
        if getattr(self.stdout, "_out", None) is sys.stdout:
            discard_stdout()
