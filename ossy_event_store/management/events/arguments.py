"""
The arguments of ``manage.py events``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandParser

from ...event_store.query.plan import ORDERS

ALL = "all"
MOST_HELD = 10_000  # events of ``tail``, which holds them to turn them round
SECONDS = 30.0  # of a search that no index answers
GROUPS = ("type", "aggregate-type", "user", "day")
_ONE = "ID|STREAM@VERSION|POSITION"


def add_subcommands(parser: CommandParser, kind: type[CommandParser]) -> None:
    """Declare each subcommand with its options."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=kind
    )
    for name, (add, text) in _ACTIONS.items():
        one = actions.add_parser(name, help=text, description=text)
        add(one)
        _add_common(one)


def _tail(parser: CommandParser) -> None:
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="Wait for new events and print them, until Ctrl-C.",
    )
    _add_filters(parser)
    _add_limit(
        parser,
        "The last N events, 20 by default; all from --after or --since on if one is "
        f"given. {MOST_HELD} at most, or {ALL}.",
    )
    _add_scan(parser)
    _add_forms(parser)


def _show(parser: CommandParser) -> None:
    parser.add_argument("event", metavar=_ONE, help="The event.")
    parser.add_argument(
        "--state",
        action="store_true",
        help="Also print the state of its aggregate at that version.",
    )
    parser.add_argument(
        "--as-test",
        action="store_true",
        help="Print the Python that makes the event in a test, and nothing else. It "
        "leaves out who appended it and its metadata.",
    )
    _add_json(parser)


def _stream(parser: CommandParser) -> None:
    parser.add_argument("stream", metavar="ID", help="The stream.")
    parser.add_argument(
        "--state", action="store_true", help="Print the state instead of the events."
    )
    parser.add_argument(
        "--diff",
        metavar="OLD..NEW",
        help="Print what changed in the state between two versions, as 3..9. Without "
        "the second one, up to the last.",
    )
    parser.add_argument(
        "--at",
        metavar="TIME",
        help="The stream, or its state, as it was at a time.",
    )
    parser.add_argument(
        "--after-version",
        type=int,
        metavar="VERSION",
        help="Only events after this version.",
    )
    _add_filters(parser, without=("--stream", "--order"))
    _add_reverse(parser)
    _add_limit(parser, "The most events; all by default.")
    _add_scan(parser)
    _add_forms(parser)


def _search(parser: CommandParser) -> None:
    parser.add_argument(
        "--text",
        metavar="TEXT",
        help="Only events with this text in a value of payload or metadata, in a type, "
        "an id, a tag or the user, whether in capitals or not.",
    )
    _add_filters(parser)
    _add_reverse(parser)
    _add_limit(parser, f"The most events, 20 by default, or {ALL}.")
    _add_scan(parser)
    _add_forms(parser)


def _trace(parser: CommandParser) -> None:
    parser.add_argument(
        "correlation_or_event",
        metavar=f"CORRELATION|{_ONE}",
        help="A correlation; or an event, for its correlation, or for what led to it "
        "and what it led to.",
    )
    _add_limit(parser, "The most events, 10,000 by default.")
    _add_json(parser)


def _stats(parser: CommandParser) -> None:
    parser.add_argument(
        "--by",
        choices=GROUPS,
        default="type",
        help="What to count by: type (the default), aggregate-type, user or day.",
    )
    parser.add_argument(
        "--top",
        type=int,
        default=20,
        metavar="N",
        help="Only the N largest numbers, or the last N days. Default: 20.",
    )
    _add_filters(parser, without=("--after", "--until-position", "--order"))
    _add_scan(parser)
    _add_json(parser)


def _types(parser: CommandParser) -> None:
    parser.add_argument(
        "--max-time",
        type=float,
        default=SECONDS,
        metavar="SECONDS",
        help=f"How long it may take. Default: {SECONDS:g}.",
    )
    _add_json(parser)


def _count(parser: CommandParser) -> None:
    _add_filters(parser)
    _add_scan(parser)
    _add_json(parser)


def _open(parser: CommandParser) -> None:
    parser.add_argument("event", metavar=_ONE, help="The event.")
    parser.add_argument(
        "--base-url",
        default="",
        metavar="URL",
        help="What to write before it, such as https://shop.example.",
    )


def _mcp(parser: CommandParser) -> None:
    parser.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="Also serve from a server of MongoDB that asks for no user, and where "
        "nothing keeps a process from writing. For development.",
    )


_ACTIONS: dict[str, tuple[Callable[[CommandParser], None], str]] = {
    "tail": (_tail, "Print the last events, and with --follow those to come."),
    "show": (_show, "Print one event, and the state that it led to."),
    "stream": (_stream, "Print the events of a stream, its state, or its changes."),
    "search": (_search, "Print the events with a text or a value, the newest first."),
    "trace": (_trace, "Print which events led to which, as a tree."),
    "stats": (_stats, "Count events by type, aggregate type, user or day."),
    "types": (_types, "List the types of stored events."),
    "count": (_count, "Count events."),
    "mcp": (_mcp, "Serve events to a program that speaks MCP, over stdin and stdout."),
    "open": (_open, "Print the address of an event's page in the admin."),
}


# --- options of several -------------------------------------------------------


def _add_filters(parser: CommandParser, without: tuple[str, ...] = ()) -> None:
    for flag, options in _FILTERS.items():
        if flag not in without:
            parser.add_argument(flag, **options)


_FILTERS: dict[str, dict[str, Any]] = {
    "--type": {
        "dest": "types",
        "action": "append",
        "metavar": "T",
        "help": "Only events of this type; can be repeated.",
    },
    "--aggregate-type": {
        "dest": "aggregate_types",
        "action": "append",
        "metavar": "T",
        "help": "Only events of aggregates of this type; can be repeated.",
    },
    "--stream": {
        "dest": "streams",
        "action": "append",
        "metavar": "ID",
        "help": "Only events of this stream; can be repeated.",
    },
    "--tag": {
        "dest": "tags",
        "action": "append",
        "metavar": "TAG",
        "help": "Only events with this tag; repeated, with all of them.",
    },
    "--user": {
        "metavar": "NAME",
        "help": "Only events that this user appended: their createdBy.",
    },
    "--since": {
        "metavar": "TIME",
        "help": "Only events recorded since then: 90s, 2h, 3d or 1w ago, or an ISO "
        "time, as 2026-09-01T10:00, in the time zone of the output.",
    },
    "--until": {"metavar": "TIME", "help": "Only events recorded before then."},
    "--after": {
        "type": int,
        "metavar": "POSITION",
        "help": "Only events after this position.",
    },
    "--until-position": {
        "type": int,
        "metavar": "POSITION",
        "help": "Only events up to this position.",
    },
    "--correlation": {
        "metavar": "ID",
        "help": "Only events with this correlationId in their metadata.",
    },
    "--caused-by": {
        "metavar": "ID",
        "help": "Only events that the event with this id caused.",
    },
    "--where": {
        "action": "append",
        "metavar": "PATH=VALUE",
        "help": "Only events with this value, as payload.to=ann; repeated, with all "
        "of them. 5 also means the number, true and null the words of JSON; "
        'payload.code="5" is only the text.',
    },
    "--order": {
        "choices": ORDERS,
        "metavar": "ORDER",
        "help": "position, created or version. The default depends on the filters.",
    },
}


def _add_reverse(parser: CommandParser) -> None:
    parser.add_argument("--reverse", action="store_true", help="In the opposite order.")


def _add_limit(parser: CommandParser, text: str) -> None:
    parser.add_argument("-n", "--limit", type=_limit, metavar="N", help=text)


def _limit(text: str) -> int | str:
    if text == ALL:
        return text
    number = int(text)
    if not 0 <= number < 2**31:
        raise ValueError(text)
    return number


_limit.__name__ = "number"  # argparse names it in its error


def _add_scan(parser: CommandParser) -> None:
    parser.add_argument(
        "--scan",
        action="store_true",
        help="Allow a search that no index answers, and that may read every event.",
    )
    parser.add_argument(
        "--max-time",
        type=float,
        metavar="SECONDS",
        help=f"How long it may take. Default: {SECONDS:g} with --scan and --text, "
        "and of stats; else only the setting TIMEOUT bounds it.",
    )


def _add_json(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="Write one JSON document.")


def _add_forms(parser: CommandParser) -> None:
    _add_json(parser)
    parser.add_argument(
        "--jsonl", action="store_true", help="Write a JSON object a line."
    )
    parser.add_argument(
        "--format",
        metavar="TEMPLATE",
        help="Write a line an event by a template, as '{position} {type} "
        "{payload.to}'.",
    )


def _add_common(parser: CommandParser) -> None:
    parser.add_argument("--utc", action="store_true", help="Show times in UTC.")
    parser.add_argument(
        "--tz",
        metavar="ZONE",
        help="Show times in this time zone, as Europe/Paris. Default: Django's "
        "TIME_ZONE.",
    )
    # Django's own, which the parser of the command takes only before the action.
    group = parser.add_argument_group("options of every command")
    for flag in ("--no-color", "--force-color", "--traceback", "--skip-checks"):
        _again(group, flag, action="store_true")
    for flag in ("--settings", "--pythonpath"):
        _again(group, flag)
    _again(group, "--verbosity", "-v", type=int, choices=[0, 1, 2, 3])


def _again(group: Any, *flags: str, **options: Any) -> None:
    group.add_argument(
        *flags, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options
    )
