"""``event_context``: what it fills in, how it nests, and where it leads."""

import asyncio
import contextvars
import json
import threading

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from ossy_event_store import (
    Aggregate,
    Boundary,
    Condition,
    EventStore,
    InvalidEvent,
    any_of,
    event_context,
    item,
)
from ossy_event_store.documents.context.current import current
from ossy_event_store.documents.context.headers import (
    id_of,
    network_of,
    traceparent_of,
)
from ossy_event_store.streams.new_events import raw_events
from tests.support.bson_values import ANY, VALUES

EVENT = {"aggregateId": "s", "aggregateType": "Reader", "type": "T"}


def built(**fields):
    """Return who and metadata of an event that is built here and now."""
    (document,), _ = raw_events([{**EVENT, **fields}], None)
    return document["createdBy"], document["metadata"]


# --- blocks ---------------------------------------------------------------------


def test_without_a_context_nothing_is_filled_in():
    assert built() == (None, {})
    assert built(createdBy="ann", metadata={"a": 1}) == ("ann", {"a": 1})


def test_blocks_nest_and_end():
    with event_context(createdBy="import", note="n", correlationId="c"):
        with event_context(createdBy="other", more=1):
            assert built() == ("other", {"correlationId": "c", "note": "n", "more": 1})
        assert built(metadata={"note": "own"}) == (
            *("import", {"correlationId": "c", "note": "own"}),
        )
        with event_context(createdBy=None):
            assert built()[0] is None
    assert current() is None


def test_the_outermost_block_makes_up_one_correlation():
    with event_context():
        first = built()[1]["correlationId"]
        with event_context(note="n"):
            assert built()[1] == {"correlationId": first, "note": "n"}
    with event_context():
        assert built()[1]["correlationId"] != first


def test_one_block_may_be_entered_again_and_in_several_threads():
    block, names = event_context(correlationId="c"), []
    inside, release = threading.Event(), threading.Event()

    def enter():
        with block:
            inside.set()
            release.wait(30)
            names.append(built()[1])
        names.append(built()[1])

    thread = threading.Thread(target=enter)
    with block, block:
        thread.start()
        inside.wait(30)
    assert current() is None
    release.set()
    thread.join()
    assert names == [{"correlationId": "c"}, {}]


def test_a_decorator_works_on_functions_and_coroutine_functions():
    @event_context(createdBy="import")
    def function(value):
        """Return both."""
        return value, built()[0]

    @event_context(createdBy="task")
    async def coroutine():
        await asyncio.sleep(0)
        return built()[0]

    assert function(5) == (5, "import")
    assert function.__doc__ == "Return both."
    assert asyncio.run(coroutine()) == "task"
    assert current() is None


def test_tasks_and_threads_of_asgiref_have_the_context_and_keep_their_own():
    async def other(name):
        with event_context(createdBy=name):
            await asyncio.sleep(0)
            return await sync_to_async(built)()

    async def both():
        return await asyncio.gather(other("ann"), other("ben"))

    with event_context(correlationId="c"):
        (ann, _), (ben, metadata) = async_to_sync(both)()
    assert (ann, ben, metadata) == ("ann", "ben", {"correlationId": "c"})


def test_a_thread_of_the_project_has_it_through_copy_context():
    found = []
    with event_context(correlationId="c"):
        for target in (built, contextvars.copy_context().run):
            arguments = () if target is built else (built,)
            work = lambda t=target, a=arguments: found.append(t(*a)[1])  # noqa: E731
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    assert found == [{}, {"correlationId": "c"}]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"createdBy": 5}, TypeError, "createdBy must be a string, not int"),
        ({"createdBy": ""}, ValueError, "createdBy must have 1 to 255"),
        ({"correlationId": None}, TypeError, "correlationId must be a string"),
        ({"causationId": ObjectId()}, TypeError, "causationId must be a string"),
        ({"correlationId": "x" * 1025}, ValueError, "1 to 1024 characters, not 1025"),
        ({"note": object()}, InvalidEvent, "metadata.note"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        event_context(**arguments)


def test_what_cannot_be_decorated_is_refused():
    def generator():
        yield

    with pytest.raises(TypeError, match=r"cannot decorate generator\(\)"):
        event_context()(generator)
    with pytest.raises(TypeError, match="decorates a function, not str"):
        event_context()("text")


def test_what_an_event_says_wins_even_if_it_is_nothing():
    with event_context(createdBy="import", correlationId="c"):
        given = built(createdBy=None, metadata={"correlationId": None})
    assert given == (None, {"correlationId": None})


# --- because of an event --------------------------------------------------------


def test_what_handles_an_event_passes_its_correlation_on():
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    metadata = {"correlationId": "c", "traceparent": parent, "note": "own"}
    event = {"_id": ObjectId(), "createdBy": "ann", "metadata": metadata}
    with event_context(createdBy="worker", other=1), event_context.of(event):
        assert built() == (
            None,
            {
                "correlationId": "c",
                "causationId": str(event["_id"]),
                "traceparent": parent,
            },
        )
        with event_context(createdBy="job"):
            assert built()[0] == "job"


@pytest.mark.parametrize(
    "metadata", [None, {}, {"correlationId": ""}, {"correlationId": 5}, "text"]
)
def test_an_event_without_a_correlation_begins_one(metadata):
    with event_context.of({"_id": "e", "metadata": metadata}):
        assert built()[1] == {"correlationId": "e", "causationId": "e"}


def test_only_a_stored_event_can_be_a_cause():
    for wrong in (EVENT, "e", None):
        with pytest.raises(TypeError, match="a dict with an _id"):
            event_context.of(wrong)


# --- carried --------------------------------------------------------------------


def test_a_carried_context_is_the_same_elsewhere():
    with event_context(createdBy="ann", day=ObjectId("a" * 24)) as entered:
        assert entered is None
        carried, before = json.loads(json.dumps(event_context.carry())), built()
    with event_context(createdBy="worker"), event_context.carried(carried):
        assert built() == before
    asynchronously = asyncio.run(event_context.acarry())
    assert asynchronously == event_context.carry() == {}
    for nothing in (None, {}):
        with event_context(createdBy="x"), event_context.carried(nothing):
            assert built() == (None, {})


@pytest.mark.parametrize(
    ("carried", "text"),
    [
        ("x", "a dict, not str"),
        ({"user": "ann"}, "the unknown key 'user'"),
        ({"createdBy": 5}, "createdBy of the carried context must be a string"),
        ({"metadata": []}, "metadata of the carried context is wrong: a dict"),
        ({"metadata": {"correlationId": 5}}, "correlationId must be a string"),
        ({"metadata": {"a": {"$oid": "x"}}}, "is wrong: "),
    ],
)
def test_a_carried_context_that_was_forged_is_refused(carried, text):
    with pytest.raises((TypeError, ValueError), match=text):
        event_context.carried(carried)


PARTS = dict.fromkeys(("createdBy", "metadata", "traceparent"), VALUES)


@ANY
@given(VALUES | st.fixed_dictionaries({}, optional=PARTS))
def test_anything_carried_is_a_context_or_a_clear_error(value):
    try:
        with event_context.carried(value):
            built()
    except (TypeError, ValueError) as error:
        assert "carried context" in str(error)


# --- headers --------------------------------------------------------------------


@given(st.text())
def test_an_id_of_a_header_is_short_and_plain_or_none(text):
    found = id_of(text)
    assert found is None or (found == text and found.isascii() and len(found) <= 128)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
    ],
)
def test_a_traceparent_that_is_not_valid_is_left_out(wrong):
    assert traceparent_of(wrong) is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("fe80::1%eth0", "fe80::/48"),
        ("unix:", None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_is_cut_to_its_network(address, network):
    assert network_of(address) == network


# --- the same again -------------------------------------------------------------


def test_what_the_store_filled_in_makes_no_repetition_a_conflict(store, face):
    event = {**EVENT, "id": "e", "payload": {"a": 1, "b": [2.0]}, "metadata": {"k": 1}}
    with event_context(createdBy="first", note="first"):
        stored = face(EventStore.append_event, event)
    again = {**event, "payload": {"b": [2], "a": 1.0}, "metadata": {"k": 1.0}}
    with event_context(createdBy="second", other="second"):
        assert face(EventStore.append_event, again) == stored
    assert face(EventStore.append_event, again) == stored


class Reader:
    aggregate_type = "Reader"
    view = staticmethod(lambda events, state: {})


class Cards(Boundary):
    query = any_of(item(tags=["card:1"]))
    view = staticmethod(lambda events, state: len(events))


NEW = {"type": "T", "id": "e", "payload": {"a": 1}}
WAYS = {
    "of": lambda face: face(Aggregate.of, Reader, {**NEW, "aggregateId": "s"}),
    "append_streams": lambda face: face(
        EventStore.append_streams, {"s": [{**NEW, "aggregateType": "Reader"}]}
    ),
    "execute": lambda face: face(Aggregate.execute, Reader, "s", lambda _: NEW),
    "boundary": lambda face: face(
        EventStore.execute, Cards(), lambda _: {**NEW, "tags": ["card:1"]}
    ),
    "unless": lambda face: face(
        EventStore.append_events,
        [{**NEW, "tags": ["card:1"]}],
        unless=Condition(Cards.query, after=0),
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_whatever_appends_again_in_another_context_stores_once(store, face, way):
    for name in ("first", "second"):
        with event_context(createdBy=name, metadata_of=name):
            way(face)
    (event,) = EventStore.find_events({})
    assert (event["createdBy"], event["metadata"]["metadata_of"]) == ("first", "first")


def test_a_closing_event_says_who_closed_the_stream(store, face):
    def closed(stream, **given):
        reader = Aggregate.of(Reader, {"type": "T", "aggregateId": stream})
        if face.runner is None:
            return reader.close(**given).events[-1]["createdBy"]
        return face.run(reader.aclose(**given)).events[-1]["createdBy"]

    with event_context(createdBy="ann"):
        assert closed("a") == "ann"
        assert closed("b", created_by="ben") == "ben"
    assert closed("c") is None
