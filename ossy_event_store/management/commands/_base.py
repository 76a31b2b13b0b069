"""What the store's commands share: short errors, exit codes, progress."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    OutputWrapper,
)
from pymongo.errors import PyMongoError

from ...exceptions import EventStoreError
from ...mongodb.deadline import explained
from ...mongodb.write_errors import short_reason

WRONG_USE = 2
INTERRUPTED = 130


class StoreCommand(BaseCommand):
    """A command whose failures are one line, without a traceback or a password."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; see ``run()`` for what it does."""
        try:
            with explained():
                self.run(**options)
        except (EventStoreError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from None
        except PyMongoError as error:
            raise CommandError(
                f"MongoDB refused or broke off: {short_reason(error)}"
            ) from None
        except KeyboardInterrupt:
            raise CommandError(self.interrupted(), returncode=INTERRUPTED) from None

    def run(self, **options: Any) -> None:
        """Do the work."""
        raise NotImplementedError

    def interrupted(self) -> str:
        """Return what to say after Ctrl-C."""
        return "Stopped."


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does; the first process of a container too."""

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, as in a test
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress:
    """
    Progress of a long run: one moving line on a terminal, else a line at times.

    Args:
        out: where to write, a command's ``stdout`` or ``stderr``.
        total: how much there is in all, if known.
        verbosity: 0 writes nothing.
        clock: seconds, for tests.
    """

    EVERY_ON_TERMINAL = 0.2
    EVERY = 10.0

    def __init__(
        self,
        out: OutputWrapper,
        total: int | None,
        verbosity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out = out
        self.total = total
        self.verbosity = verbosity
        self.clock = clock
        self.terminal = out.isatty()
        self.last = clock()
        self.drawn = False

    def show(self, done: int, seconds: float, more: str = "") -> None:
        """Show ``done`` events after ``seconds``, if it is time to."""
        every = self.EVERY_ON_TERMINAL if self.terminal else self.EVERY
        if self.verbosity < 1 or self.clock() - self.last < every:
            return
        self.last = self.clock()
        text = self.text(done, seconds) + (f", {more}" if more else "")
        if self.terminal:
            self.out.write(f"\r\x1b[K{text}", ending="")
            self.out.flush()
            self.drawn = True
        else:
            self.out.write(text)

    def text(self, done: int, seconds: float) -> str:
        """Return count, rate and time left."""
        rate = done / seconds if seconds else 0.0
        text = f"{done:,} events"
        if self.total:
            share = min(1.0, done / self.total)
            text = f"{done:,} of {max(done, self.total):,} events ({share:.0%})"
        text += f", {rate:,.0f} events/s"
        if self.total and rate and done < self.total:
            text += f", {duration((self.total - done) / rate)} left"
        return text

    def end(self) -> None:
        """Leave the terminal's line, if one was drawn."""
        if self.drawn:
            self.out.write("\r\x1b[K", ending="")
            self.drawn = False


def add_selection(parser: CommandParser) -> None:
    """Add the options that choose streams, ``types`` and ``ids``."""
    parser.add_argument(
        "--type",
        dest="types",
        action="append",
        metavar="T",
        help="Only streams of this type; may be given several times.",
    )
    parser.add_argument(
        "--id",
        dest="ids",
        action="append",
        metavar="ID",
        help="Only this stream; may be given several times.",
    )


def distinct(values: Sequence[str] | None) -> list[str] | None:
    """Return what was chosen, each once; None if nothing was."""
    return list(dict.fromkeys(values)) if values else None


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
