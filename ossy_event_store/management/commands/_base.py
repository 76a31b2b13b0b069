"""The base of the commands: one-line errors, exit codes, progress."""

from __future__ import annotations

import getpass
import io
import os
import signal
import sys
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

from ...documents.display import counted, visible
from ...exceptions import EventStoreError
from ...mongodb import connection, schema_validator
from ...mongodb.deadline import explained
from ...mongodb.ports import drive
from ...mongodb.write_errors import short_reason
from ...streams.gc_pause import collect_less_often

# Exit codes.
WRONG_USE = 2
INTERRUPTED = 130


class Parser(CommandParser):
    """Takes what follows an option with one value as that value, dash or not."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Join each such option and its value, as ``--id=-x``."""
        left = iter(sys.argv[1:] if args is None else args)
        joined: list[str] = []
        for arg in left:
            value = None
            if arg == "--":
                joined += [arg, *left]
                break
            if arg.partition("=")[2] == "--" and arg.startswith("--"):
                # argparse would lose the value, and give an empty list.
                self.error(f"{arg}: a value must not be --")
            if arg.startswith("--") and self._takes_one(arg):
                value = next(left, None)
            if value in (None, "--") or value in self._option_string_actions:
                joined += [arg] if value is None else [arg, value]
            else:
                joined.append(f"{arg}={value}")
        return super().parse_known_args(joined, namespace)

    def error(self, message: str) -> Any:
        """Fail with the arguments as they are, but for what a terminal obeys."""
        return super().error(visible(message))

    def _takes_one(self, arg: str) -> bool:
        action = self._option_string_actions.get(arg)
        return action is not None and action.nargs is None


class StoreCommand(BaseCommand):
    """A command that fails with one line, without a traceback or a password."""

    def run_from_argv(self, argv: list[str]) -> None:
        """
        Run the command in a process of its own; ``call_command()`` does not.

        Its terminal may lack characters of an id or of a message.
        """
        collect_less_often()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        super().run_from_argv(argv)

    def handle(self, *args: Any, **options: Any) -> None:
        """Call ``run()`` and turn the errors of the store into a ``CommandError``."""
        try:
            with explained():
                self.run(**options)
        except (EventStoreError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from None
        except PyMongoError as error:
            raise CommandError(
                _other_shape()
                or f"MongoDB refused the command or failed: {short_reason(error)}"
            ) from None
        except KeyboardInterrupt:
            raise CommandError(self.interrupted(), returncode=INTERRUPTED) from None

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        """Return the parser; an id that begins with a dash is no option to it."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.__class__ = Parser  # Django offers no way to choose the class
        return parser

    def run(self, **options: Any) -> None:
        """Do the work."""
        raise NotImplementedError

    def interrupted(self) -> str:
        """Return the message after Ctrl-C."""
        return "Stopped."


def _other_shape() -> str | None:
    try:
        return drive(schema_validator.other_shape(connection.blocking()))
    except (EventStoreError, PyMongoError):
        return None


def discard_stdout() -> None:
    """Let Python flush stdout at its end, though nothing can be written there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C, even as the first process of a container."""

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
    Shows the progress of a long run: one moving line on a terminal, else log lines.

    Args:
        out: where to write, a command's ``stdout`` or ``stderr``.
        total: all events, if known.
        verbosity: 0 writes nothing.
        clock: returns seconds.
    """

    TERMINAL_SECONDS = 0.2  # between two updates of the moving line
    LOG_SECONDS = 10.0  # between two log lines

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
        """Show ``done`` events after ``seconds``, unless an update is too soon."""
        pause = self.TERMINAL_SECONDS if self.terminal else self.LOG_SECONDS
        if self.verbosity < 1 or self.clock() - self.last < pause:
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
        """Return the count, the rate and the time left."""
        rate = done / seconds if seconds else 0.0
        text = counted(done, "event")
        if self.total:
            share = min(1.0, done / self.total)
            total = counted(max(done, self.total), "event")
            text = f"{done:,} of {total} ({share:.0%})"
        text += f", {rate:,.0f} events/s"
        if self.total and rate and done < self.total:
            text += f", {duration((self.total - done) / rate)} left"
        return text

    def end(self) -> None:
        """Clear the moving line, if one was drawn."""
        if self.drawn:
            self.out.write("\r\x1b[K", ending="")
            self.drawn = False


def add_selection(parser: CommandParser) -> None:
    """Add the options ``--type`` and ``--id``, which select streams."""
    parser.add_argument(
        "--type",
        dest="types",
        action="append",
        metavar="T",
        help="Only streams of this type; can be repeated.",
    )
    parser.add_argument(
        "--id",
        dest="ids",
        action="append",
        metavar="ID",
        help="Only this stream; can be repeated.",
    )


def operator_name() -> str | None:
    """Return the name of the user that runs the command, if it is known."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container whose user has no name
        return None


def distinct(values: Sequence[str] | None) -> list[str] | None:
    """Return the selected values without duplicates; None if there are none."""
    return list(dict.fromkeys(values)) if values else None


def duration(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
