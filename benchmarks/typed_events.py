"""
What events as classes cost: appends without any class, and objects of each kind.

Appends of plain dicts, beside the same without the look into the catalogue. Then, for
each kind of class, what an object of seven fields costs to append beside its dict, and
the microseconds that encoding and decoding take by themselves.
"""

import dataclasses
import datetime as dt
import enum
import statistics
import time
import typing
from decimal import Decimal

import bench


class Condition(enum.Enum):
    NEW = "new"
    WORN = "worn"


FIELDS = {
    "book": str,
    "reader": str,
    "weeks": int,
    "due": dt.date,
    "fee": Decimal,
    "condition": Condition,
    "shelves": list[str],
}
VALUES = {
    "book": "book-977",
    "reader": "reader-313",
    "weeks": 3,
    "due": dt.date(2027, 1, 31),
    "fee": Decimal("1.50"),
    "condition": Condition.WORN,
    "shelves": ["a", "b"],
}


def classes():
    """Return a class of each kind whose library is installed."""
    found = {"dataclass": dataclasses.make_dataclass("Lent", FIELDS.items())}
    found["TypedDict"] = typing.TypedDict("Lent", FIELDS)
    try:
        import attrs
        import msgspec
        import pydantic
    except ImportError:
        return found
    found["attrs"] = attrs.make_class(
        "Lent", {name: attrs.field(type=kind) for name, kind in FIELDS.items()}
    )
    found["pydantic"] = pydantic.create_model(
        "Lent", **{name: (kind, ...) for name, kind in FIELDS.items()}
    )
    found["msgspec"] = msgspec.defstruct("Lent", FIELDS.items())
    return found


def append(make, count):
    """Append events one by one, each to its own stream; return the seconds."""
    from ossy_event_store import EventStore

    began = time.perf_counter()
    for _ in range(count):
        EventStore.append_event(make())
    return time.perf_counter() - began


def build(make, count):
    """Build the documents of events, without sending them; return the seconds."""
    from ossy_event_store.streams.new_events import raw_events

    began = time.perf_counter()
    for _ in range(count):
        raw_events([make()], None)
    return time.perf_counter() - began


def without_catalogue(function, *arguments):
    """Call a function while nothing looks into the catalogue."""
    from ossy_event_store.streams import new_events

    known = new_events._checked
    new_events._checked = new_events.check_event
    try:
        return function(*arguments)
    finally:
        new_events._checked = known


def maker(kind, payload):
    """Return a function that makes an event in a stream of its own."""
    number = iter(range(10**9))

    def make():
        return {
            "type": kind,
            "aggregateId": f"{bench.NAME}-{kind}-{next(number)}-{id(number)}",
            "aggregateType": "Book",
            "payload": payload,
        }

    return make


def microseconds(function, argument, count=5000):
    """Return the median time of a call."""
    times = []
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(count):
            function(argument)
        times.append((time.perf_counter() - began) / count)
    return 1e6 * statistics.median(times)


def rows(options):
    """Return the rows of the table, and print what encoding and decoding take."""
    from ossy_event_store import document_of, event

    payload = VALUES | {"due": "2027-01-31", "fee": "1.50", "condition": "worn"}
    plain = maker("Plain", payload)
    append(plain, 200)
    found = []
    # Short turns, so that what else the machine does meets both.
    turns = 40 * options.rounds
    for name, function, count in (("build", build, 200), ("append", append, 20)):
        seconds = bench.turns(
            turns,
            store=lambda f=function, n=count: f(plain, n),
            bare=lambda f=function, n=count: without_catalogue(f, plain, n),
        )
        what = f"{name} dicts, beside no look at the catalogue"
        found.append(bench.row(what, count, seconds, least=0.95))
    for kind, cls in classes().items():
        cls = event(f"Lent by {kind}")(cls)
        sent = cls(**VALUES)
        stored = document_of({"type": f"Lent by {kind}", "payload": sent})["payload"]
        codec = codec_of(cls)
        encode, decode = (
            microseconds(codec.encode, sent),
            microseconds(codec.decode, stored),
        )
        print(f"{kind:10} encode {encode:6.1f} µs   decode {decode:6.1f} µs")
        seconds = bench.turns(
            turns,
            store=lambda k=kind, s=sent: append(maker(f"Lent by {k}", s), 20),
            bare=lambda s=stored: append(maker("Plain", s), 20),
        )
        found.append(bench.row(f"append, {kind}, beside its dict", 20, seconds))
    return found


def codec_of(cls):
    from ossy_event_store.documents.catalogue.catalogue import current

    return current().of_class[cls].codec


def main():
    options = bench.arguments(__doc__)
    database = bench.set_up()
    try:
        bench.print_rows(rows(options), [], options.json)
    finally:
        database.client.drop_database(database.name)


if __name__ == "__main__":
    main()
