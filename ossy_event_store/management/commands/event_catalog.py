"""``manage.py event_catalog``: list the event types, and check what a change breaks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import pymongo
from django.core.management.base import CommandError, CommandParser
from pymongo.errors import PyMongoError

from ...documents.bson_types import Document
from ...documents.catalogue import declaration
from ...documents.catalogue.compatibility.event_types import KnownTypes, known_types
from ...documents.catalogue.compatibility.lock import Lock, LockError, dumped, loaded
from ...documents.catalogue.compatibility.recording import updated
from ...documents.catalogue.compatibility.verdicts import Judgement, judged
from ...documents.catalogue.problems import problems
from ...documents.display import counted, visible
from ...mongodb import connection
from ...mongodb.ports import drive
from ...monitoring.catalogue.listing import listed_types
from ...monitoring.catalogue.schema_files import schema_files
from ...monitoring.catalogue.stored import StoredTypes, stored_types
from ...monitoring.catalogue.text import (
    judgement_lines,
    markdown_lines,
    stored_lines,
    text_lines,
)
from ._base import WRONG_USE, StoreCommand

MAX_SECONDS = 10.0
_ALONE = ("markdown", "write")
_TOGETHER = ("check", "stored", "json_schema")


class Command(StoreCommand):
    """List the event types; exit code 1 if a change breaks, 2 for wrong use."""

    help = (
        "Lists the event types that the code declares: their versions, fields and "
        "upcasters, and what names them. With --check and --stored, says whether the "
        "code can read every event that is stored."
    )
    # It reports contradictions itself, beside everything else that they break.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--json",
            action="store_true",
            help="Write one JSON document instead of lines of text.",
        )
        parser.add_argument(
            "--markdown", action="store_true", help="Write a page of Markdown."
        )
        parser.add_argument(
            "--json-schema",
            metavar="DIR",
            help="Write the JSON Schema of the stored payloads into this folder, a "
            "file for each type and version. With --check, also of the earlier "
            "versions in the lock.",
        )
        parser.add_argument(
            "--write",
            metavar="LOCK",
            help="Record the event types in this file, with all versions that it "
            "recorded before. Refuses a breaking change.",
        )
        parser.add_argument(
            "--accept-breaking",
            action="store_true",
            help="With --write: record a breaking change, and forget the versions that "
            "the code cannot read. Only if no event of them is stored anywhere.",
        )
        parser.add_argument(
            "--check",
            metavar="LOCK",
            help="Compare the event types with this file, and say who can read whose "
            "events; fail if the code cannot read all that may be stored.",
        )
        _add_stored(parser)

    def run(self, **options: Any) -> None:
        """List, or do what the options say."""
        _check_options(options)
        wrong: list[str] = list(problems(declaration.declarations))
        if options["write"] is not None:
            self.write(options, wrong)
        elif any(options[name] for name in _TOGETHER):
            self.judge(options, wrong)
        else:
            self.list_all(options)
            _fail_with(wrong)

    def list_all(self, options: Any) -> None:
        """Print the catalogue."""
        types = listed_types()
        if options["json"]:
            self.stdout.write(_json({"types": [one.as_dict() for one in types]}))
        elif not types and not options["markdown"]:
            self.stdout.write(
                "The code declares no event types. Decorate their classes with @event, "
                "in a module events of an installed app."
            )
        else:
            lines = markdown_lines if options["markdown"] else text_lines
            self.stdout.write("\n".join(lines(types)))

    def write(self, options: Any, wrong: list[str]) -> None:
        """Record the event types in a lock."""
        _fail_with(wrong)
        path, known = Path(options["write"]), _known()
        lock = _lock_of(path) if path.exists() else Lock()
        found = judged(lock, known)
        breaking = [one for one in found if one.is_breaking]
        if breaking and not options["accept_breaking"]:
            self._print("\n".join(judgement_lines(breaking)))
            raise CommandError(
                f"{path} was not written. {_cannot_read(breaking)} Declare an upcaster "
                "or an alias. If no such event is stored anywhere: --accept-breaking."
            )
        text = dumped(updated(lock, known))
        if path.exists() and path.read_bytes() == text.encode():
            state = "is up to date"
        else:
            _replace(Path(os.path.realpath(path)), text)
            state = f"records {counted(len(known.types), 'event type')}"
        if options["verbosity"] >= 1:
            self._print(f"{path} {state}.")

    def judge(self, options: Any, wrong: list[str]) -> None:
        """Compare the event types with a lock, with what is stored, or both."""
        known = _known()
        lock = Lock() if options["check"] is None else _lock_of(Path(options["check"]))
        failures: list[str] = list(wrong)
        document: Document = {"problems": list(wrong)}
        if options["check"] is not None:
            found = judged(lock, known)
            document["events"] = [one.as_dict() for one in found]
            document["outdated"] = dumped(updated(lock, known)) != dumped(lock)
            failures += self._report_check(options, found, document["outdated"])
        if options["stored"]:
            stored = _stored(known, options["max_time"])
            document["stored"] = [one.as_dict() for one in stored.versions]
            document["neverStored"] = stored.never_stored
            document["counted"] = stored.is_counted
            failures += self._report_stored(options, stored)
        if options["json_schema"] is not None:
            self._write_schemas(options, known, lock)
        if options["json"]:
            document["ok"] = not failures
            self.stdout.write(_json(document))
        _fail_with(failures)

    def _report_check(
        self, options: Any, found: list[Judgement], is_outdated: bool
    ) -> list[str]:
        shown = [one for one in found if one.backward or one.forward or one.is_new]
        breaking = [one for one in found if one.is_breaking]
        if not options["json"] and options["verbosity"] >= 1:
            every = found if options["verbosity"] > 1 else shown
            self._print("\n".join(judgement_lines(every)))
            if not shown:
                self._print(f"{counted(len(found), 'event type')}: nothing changed.")
            if is_outdated and not breaking:
                self._print(
                    f"{options['check']} lacks these changes; record them: manage.py "
                    f"event_catalog --write {options['check']}"
                )
        return [_cannot_read(breaking)] if breaking else []

    def _report_stored(self, options: Any, found: StoredTypes) -> list[str]:
        if not options["json"] and options["verbosity"] >= 1:
            self._print("\n".join(stored_lines(found, options["max_time"])))
        wrong = found.unreadable(strict=options["strict"])
        names = ", ".join(f"{one.type!r} version {one.version}" for one in wrong)
        return [f"Stored, and the code cannot read it: {names}."] if wrong else []

    def _write_schemas(self, options: Any, known: KnownTypes, lock: Lock) -> None:
        folder, number = Path(options["json_schema"]), 0
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in schema_files(known, lock):
            number += 1
            _replace(folder / name, text)
        if not options["json"] and options["verbosity"] >= 1:
            self._print(f"Wrote {counted(number, 'schema')} into {folder}.")

    def _print(self, text: str) -> None:
        if text:
            self.stdout.write(text)


def _add_stored(parser: CommandParser) -> None:
    parser.add_argument(
        "--stored",
        action="store_true",
        help="Ask the database which types and versions are stored; fail if the "
        "code cannot read one. The user needs no more than find.",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="With --stored: also fail for a type that the catalogue lacks.",
    )
    parser.add_argument(
        "--max-time",
        type=float,
        default=MAX_SECONDS,
        metavar="SECONDS",
        help="With --stored: how long it may take. Counts for which the time does "
        f"not suffice are left out. Default: {MAX_SECONDS:g}.",
    )


def _check_options(options: Any) -> None:
    given = [
        name for name in (*_ALONE, *_TOGETHER) if options[name] not in (None, False)
    ]
    alone = [name for name in given if name in _ALONE]
    reason = None
    if alone and len(given) > 1:
        reason = f"{_option(alone[0])} cannot be combined with another action."
    elif alone and options["json"]:
        reason = f"--json cannot be combined with {_option(alone[0])}."
    elif options["accept_breaking"] and options["write"] is None:
        reason = "--accept-breaking needs --write."
    elif options["strict"] and not options["stored"]:
        reason = "--strict needs --stored."
    elif not 0 < options["max_time"] < float("inf"):
        reason = f"--max-time must be a number of seconds, not {options['max_time']:g}."
    if reason is not None:
        raise CommandError(reason, returncode=WRONG_USE)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _known() -> KnownTypes:
    return known_types(declaration.declarations)


def _stored(known: KnownTypes, seconds: float) -> StoredTypes:
    store = connection.blocking()
    try:
        with pymongo.timeout(seconds):
            return drive(stored_types(store, known))
    except PyMongoError as error:
        if not error.timeout:
            raise
        raise CommandError(
            f"Looking for the stored types took longer than --max-time {seconds:g}. Is "
            "the server reachable? Without the indexes of event types, it has to read "
            "every event: manage.py ensure_event_store creates them, unless "
            "ADMIN_INDEXES is False."
        ) from None


def _cannot_read(breaking: list[Judgement]) -> str:
    names = ", ".join(visible(one.type) for one in breaking)
    return f"The code cannot read every event of {names} that may be stored."


def _fail_with(reasons: list[str]) -> None:
    if reasons:
        raise CommandError("\n".join(reasons))


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


# --- files --------------------------------------------------------------------


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"{path}: {reason}", returncode=WRONG_USE) from None


def _lock_of(path: Path) -> Lock:
    try:
        with _explained(path):
            text = path.read_bytes().decode()
        return loaded(text)
    except LockError as error:
        raise CommandError(f"{path}: {error}.", returncode=WRONG_USE) from None


def _replace(path: Path, text: str) -> None:
    """Write a file at once; what was there before is replaced, not followed."""
    part = path.with_name(f".event_catalog-{token_hex(8)}.part")
    with _explained(path):
        try:
            part.write_bytes(text.encode())
            os.replace(part, path)  # noqa: PTH105 - a link is replaced as well
        finally:
            part.unlink(missing_ok=True)
