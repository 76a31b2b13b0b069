"""Any filters that a shell may pass to ``manage.py events``."""

import io
import random

import pytest
from django.core.management import CommandError
from django.core.management.base import OutputWrapper
from django.core.management.color import no_style

from ossy_event_store import InvalidQuery, Mongo
from ossy_event_store.event_store.query.lazy_query import plan_of
from ossy_event_store.management.commands.events import Command
from ossy_event_store.management.events.output import Output
from ossy_event_store.management.events.request import Request
from ossy_event_store.management.events.times import Times
from tests.support import golden
from tests.support.processes import ON_URL
from tests.support.sent_commands import Listener

FUZZED, RUN = 10_000, 400  # options alone, and commands
#: What a filter may hold that is made of options.
OF_FILTERS = {"$and", "$or", "$in", "$all", "$eq", "$gt", "$gte", "$lt"}
#: What a filter, a sort or a stage may hold that is sent.
SENT = OF_FILTERS | {
    *("$lte", "$type", "$not", "$expr", "$match", "$group", "$sum"),
    *("$toDate", "$dateToString"),
}
VALUES = [
    *("", "-", "--", "=", ".", "a", "5", "-1", "0", "1e9", "99999999999999999999"),
    *("emma-1", "emma-1@2", "BookLent", "jane", "order-7", "reader:ann", "all"),
    *("payload.to=ann", "payload.code=5", "payload=5", "payload.=x", "payload.to"),
    *("payload.$where=1", "$where=1", "payload.a.$gt=1", "metadata.x={'$gt':1}"),
    *('payload.x={"$gt":""}', 'payload.x=["$a"]', "payload.x=$where", "payload.\0=1"),
    *('payload.x="\\ud800"', 'payload.x="', "payload.to=null", "payload.x=1e999"),
    *("payload.x=9223372036854775808", "payload." + "a." * 300 + "b=1", "_id=1"),
    *("2h", "0s", "999999999w", "2026-03-29", "2026-03-29T02:30", "0001-01-01"),
    *("9999-12-31T23:59:59", "2026-13-01", "now", "\x1b[2J", "\ud800", "é\u202e"),
    *("{type}", "{payload.$where}", "{", "{}", "{payload.0.1}", "{created}", "0..3"),
    *("3..", "..3", "9..1", "000000000000000000000001", "x" * 300, "Europe/Paris"),
    *("../../etc/passwd", "position", "created", "version", "day", "user", "😀"),
]
FLAGS = ["--json", "--jsonl", "--scan", "--reverse", "--state", "--utc", "--as-test"]
WITH_VALUE = [
    *("--type", "--aggregate-type", "--stream", "--tag", "--user", "--since"),
    *("--until", "--after", "--until-position", "--correlation", "--caused-by"),
    *("--where", "--where", "--order", "--after-version", "-n", "--limit", "--text"),
    *("--format", "--tz", "--max-time", "--at", "--diff", "--by", "--top"),
]
ACTIONS = ["tail", "search", "stream", "count", "stats", "show", "trace", "open"]
NAMED = {"stream", "show", "trace", "open"}


def invocation(chance, known):
    """Return the arguments of a call; most options are those of its action."""
    action = chance.choice(ACTIONS)
    words = [action]
    if action in NAMED:
        words.append(chance.choice(VALUES))
    for _ in range(chance.choice((0, 1, 1, 2, 2, 3))):
        option = chance.choice(FLAGS + 2 * WITH_VALUE)
        if option not in known[action] and chance.random() < 0.95:
            continue
        words.append(option)
        if option not in FLAGS:
            words.append(chance.choice(VALUES))
    return words


def operators(value):
    """Return the operators in a command that is sent; literals are data."""
    if isinstance(value, list):
        return set().union(*map(operators, value))
    if not isinstance(value, dict):
        return set()
    found = {key for key in value if key.startswith("$")}
    return found.union(*(operators(v) for k, v in value.items() if k != "$literal"))


@pytest.fixture
def parser():
    return Command().create_parser("manage.py", "events")


def call(parser, words):
    """Run a command as ``call_command()`` does; return its exit code and output."""
    out = io.StringIO()
    try:
        options = {**vars(parser.parse_args(words)), "skip_checks": True}
        Command(stdout=out, stderr=io.StringIO()).execute(**options)
    except CommandError as error:
        assert "\x1b" not in str(error)
        return error.returncode, out.getvalue()
    return 0, out.getvalue()


@pytest.fixture
def sent(store, settings):
    """The commands that were sent since the last call."""
    listener = Listener()
    options = {"event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}

    others = set()

    def sent():
        names = ("find", "aggregate", "count", "distinct")
        found = [one for name in names for one in listener.sent.pop(name, ())]
        others.update(listener.sent)
        listener.sent.clear()
        return [
            one.get(part) for one in found for part in ("filter", "pipeline", "sort")
        ]

    yield sent, others
    Mongo.close()


@pytest.fixture
def fuzzed(parser):
    """A function that yields so many calls with any options."""
    actions = next(a for a in parser._actions if a.dest == "action")
    known = {
        name: {flag for one in sub._actions for flag in one.option_strings}
        for name, sub in actions.choices.items()
    }
    chance = random.Random(7)
    return lambda count: (invocation(chance, known) for _ in range(count))


def test_no_option_brings_an_operator_of_its_own(parser, fuzzed):
    output = Output(OutputWrapper(io.StringIO()), no_style(), Times.of("UTC"))
    refused = 0
    for words in fuzzed(FUZZED):
        try:
            request = Request(vars(parser.parse_args(words)), output, output.out)
            conditions = plan_of(request.query().scan(), "created").conditions
            request.writer()
        except (CommandError, InvalidQuery):
            refused += 1
        else:
            query = conditions.filter(conditions.given)
            assert operators(query) <= OF_FILTERS, words
    assert FUZZED / 10 < refused < FUZZED * 9 / 10


@ON_URL
def test_no_option_fails_or_sends_an_operator_of_its_own(history, parser, fuzzed, sent):
    sent, others = sent
    golden.insert(history)
    sent()
    others.clear()
    codes = dict.fromkeys((0, 1, 2), 0)
    for words in fuzzed(RUN):
        code, out = call(parser, words)
        codes[code] += 1
        assert "\x1b" not in out, words
        for command in sent():
            assert operators(command) <= SENT, words
    assert min(codes[0], codes[2]) > RUN / 10
    assert others <= {"getMore", "killCursors", "listIndexes"}


def test_an_operator_is_seen():
    query = {"$and": [{"payload.a": {"$where": "1"}}, {"b": {"$in": [{"$gt": 1}]}}]}
    assert operators(query) - OF_FILTERS == {"$where"}
    assert "$where" in operators([{"$match": {"a": {"b": {"$where": 1}}}}])
