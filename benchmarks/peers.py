"""
Measure the same work on other event stores, in the same run.

Each appends one event to a stream whose version is known, and loads and folds a stream
of ten, with its default settings. A note names each store that is not installed.
"""

import statistics
import tempfile
import uuid
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import bench
import postgres

MANY = 20  # operations a turn
TURNS = 10  # turns a round
LENGTH = 10  # events of the stream that is loaded
NOTE = "x" * 99
FOLDED = {"amount": 9000, "events": LENGTH}
JOURNAL = "the journal on disk before a write returns"


def fold(payloads):
    state = {"amount": None, "events": 0}
    for payload in payloads:
        state = {"amount": payload["amount"], "events": state["events"] + 1}
    return state


class LeftOut(Exception):
    """The reason why a peer cannot be measured here."""


# --- the peers: each yields append(), which creates a stream, and load() -------------


@contextmanager
def ossy_event_store():
    from ossy_event_store import Aggregate

    class Root:
        aggregate_type = "PeerLoan"
        revision = "1"

        @staticmethod
        def view(events, saved_state):
            return fold(event["payload"] for event in events)

    event = {"type": "Submitted", "payload": {"amount": 9000, "note": NOTE}}

    def append(many):
        aggregate = Aggregate(Root, str(uuid.uuid4()), [])
        for _ in range(many):
            aggregate.add(event)
        return aggregate.id

    yield append, lambda stream: Aggregate.of(Root, stream).view()


@contextmanager
def bare_pymongo():
    """The plain driver, which the other rows compare the store with."""
    import append as by_hand

    events, _ = by_hand.collections()
    payload = {"amount": 9000, "note": NOTE}

    def append(many):
        stream = str(uuid.uuid4())
        for number in range(1, many + 1):
            events.insert_one({**by_hand.document(stream, number), "payload": payload})
        return stream

    def load(stream):
        found = events.find({"aggregateId": stream}).sort("aggregateVersion", 1)
        return fold(event["payload"] for event in found.to_list())

    yield append, load


@contextmanager
def eventsourcing_on(module, **env):
    from eventsourcing.application import Application
    from peer_loan import PeerLoan

    app = Application(env={"PERSISTENCE_MODULE": module, **env})

    def append(many):
        loan = PeerLoan()
        for _ in range(many):
            loan.submit(amount=9000, note=NOTE)
            app.save(loan)
        return loan.id

    def load(stream):
        loan = app.repository.get(stream)
        return {"amount": loan.amount, "events": loan.events}

    try:
        yield append, load
    finally:
        app.close()


@contextmanager
def eventsourcing_sqlite():
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "events.db")
        with eventsourcing_on("eventsourcing.sqlite", SQLITE_DBNAME=file) as both:
            yield both


@contextmanager
def eventsourcing_postgres():
    with a_cluster() as (folder, user):
        env = {
            "POSTGRES_DBNAME": "postgres",
            "POSTGRES_HOST": folder,
            "POSTGRES_USER": user,
            "POSTGRES_PASSWORD": "none",
        }
        with eventsourcing_on("eventsourcing.postgres", **env) as both:
            yield both


@contextmanager
def a_cluster():
    if postgres.programs() is None:
        raise LeftOut("PostgreSQL is not installed")
    with postgres.cluster() as found:
        yield found


@contextmanager
def event_sourcery_on(url):
    from event_sourcery import Event, StreamId
    from event_sourcery_sqlalchemy import SQLAlchemyBackend, configure_models
    from sqlalchemy import create_engine
    from sqlalchemy.orm import DeclarativeBase, Session

    class Base(DeclarativeBase):
        pass

    class Submitted(Event):
        amount: int
        note: str

    configure_models(Base)
    engine = create_engine(url)
    Base.metadata.create_all(engine)

    # One session per unit of work, like a request: a session remembers every stream.
    def on(session):
        return SQLAlchemyBackend().configure(session).event_store

    def append(many):
        stream = StreamId()
        with Session(engine) as session:
            store = on(session)
            for number in range(many):
                one = Submitted(amount=9000, note=NOTE)
                store.append(one, stream_id=stream, expected_version=number)
                session.commit()
        return stream

    def load(stream):
        with Session(engine) as session:
            found = on(session).load_stream(stream)
            return fold({"amount": one.event.amount} for one in found)

    try:
        yield append, load
    finally:
        engine.dispose()


@contextmanager
def event_sourcery_postgres():
    with a_cluster() as (folder, user):
        url = f"postgresql+psycopg://{user}@/postgres?host={folder}"
        with event_sourcery_on(url) as both:
            yield both


@contextmanager
def aett_mongodb():
    from datetime import UTC, datetime

    from aett.eventstore import BaseEvent, Commit, EventMessage, TopicMap
    from aett.mongodb import CommitStore, PersistenceManagement
    from pymongo import MongoClient

    class PeerSubmitted(BaseEvent):
        amount: int
        note: str

    topics = TopicMap()
    topics.register(PeerSubmitted)
    environment = bench.environment()
    with MongoClient(environment["DB_URL"]) as client:
        database = client[f"{bench.NAME}_aett"]
        PersistenceManagement(database, topics).initialize()
        store = CommitStore(database, topics)

        def append(many):
            stream = str(uuid.uuid4())
            for number in range(1, many + 1):
                body = PeerSubmitted(
                    source=stream,
                    timestamp=datetime.now(UTC),
                    version=number,
                    amount=9000,
                    note=NOTE,
                )
                store.commit(
                    Commit(
                        tenant_id="t",
                        stream_id=stream,
                        stream_revision=number,
                        commit_id=uuid.uuid4(),
                        commit_sequence=number,
                        commit_stamp=datetime.now(UTC),
                        headers={},
                        events=[EventMessage(body=body)],
                        checkpoint_token=0,
                    )
                )
            return stream

        def load(stream):
            return fold(
                {"amount": message.body.amount}
                for commit in store.get("t", stream)
                for message in commit.events
            )

        try:
            yield append, load
        finally:
            client.drop_database(database.name)


# Name, how to set it up, the package whose version counts, and what it guarantees.
PEERS = [
    ("ossy_event_store", ossy_event_store, None, f"majority, with {JOURNAL}"),
    ("hand-written PyMongo", bare_pymongo, "pymongo", f"majority, with {JOURNAL}"),
    (
        "eventsourcing, SQLite",
        eventsourcing_sqlite,
        "eventsourcing",
        "WAL, synchronous FULL; one machine only",
    ),
    (
        "eventsourcing, PostgreSQL",
        eventsourcing_postgres,
        "eventsourcing",
        "synchronous_commit on; one writer at a time, because of a table lock",
    ),
    (
        "event sourcery, PostgreSQL",
        event_sourcery_postgres,
        "python-event-sourcery",
        "synchronous_commit on; one session per unit of work",
    ),
    (
        "aett, MongoDB",
        aett_mongodb,
        "aett-mongodb",
        "the server's default, majority; a counter for all streams before each write",
    ),
]
NOT_COMPARED = [
    "protean: left out, because its durable store needs the functions of Message DB in "
    "PostgreSQL, which is not a Python package",
    "eventsourcing-django: left out, because it requires older releases of Django and "
    "eventsourcing than those measured here",
]


def measured(options):
    """Return a row for each installed peer, and notes about the others."""
    notes, installed, streams = [], {}, {}
    with ExitStack() as stack:
        for name, make, _, _ in PEERS:
            try:
                append, load = installed[name] = stack.enter_context(make())
            except (ImportError, LeftOut) as error:
                notes.append(f"{name}: left out: {error}")
                continue
            streams[name] = append(LENGTH)
            assert load(streams[name]) == FOLDED, f"{name} folds to something else"
        appended = bench.turns(
            options.rounds * TURNS,
            **{
                name: lambda f=append: f(MANY)
                for name, (append, _) in installed.items()
            },
        )
        loaded = bench.turns(
            options.rounds * TURNS,
            **{
                name: lambda f=load, s=streams[name]: [f(s) for _ in range(MANY)]
                for name, (_, load) in installed.items()
            },
        )
    rows = [
        {
            "peer": name,
            "version": version_of(package),
            "append": rate(appended[name]),
            "load": rate(loaded[name]),
            "as it ships": promise,
        }
        for name, _, package, promise in PEERS
        if name in installed
    ]
    return rows, notes + NOT_COMPARED


def rate(seconds):
    return round(MANY / statistics.median(seconds))


def version_of(package):
    if package is None:
        from ossy_event_store import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


HEADER = ("", "version", "append one", "load 10", "as it ships")


def cells(row):
    return (
        row["peer"],
        row["version"],
        f"{row['append']:,}/s",
        f"{row['load']:,}/s",
        row["as it ships"],
    )


def text_of(rows):
    for line in [HEADER, *map(cells, rows)]:
        peer, number, append, load, promise = line
        yield f"{peer:28} {number:>8} {append:>11} {load:>11}  {promise}"


def markdown_of(rows):
    yield "| " + " | ".join(HEADER) + " |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for row in rows:
        yield "| " + " | ".join(cells(row)) + " |"
