"""The feed over all streams, and the page of an event."""

import datetime as dt
import html
import json

import pytest
from bson import ObjectId

from ossy_event_store import EventStore
from ossy_event_store.admin.context import trees
from ossy_event_store.mongodb.indexes import CAUSATION
from tests.support import old_loans
from tests.support.admin import ALL, NOT_ON_DJONGO, text_of, url

pytestmark = [pytest.mark.versions, pytest.mark.django_db, NOT_ON_DJONGO]


def types_in(response):
    assert response.status_code == 200, response.context["reason"]
    return [row["type"] for row in response.context["rows"]]


def test_the_feed_lists_the_newest_first_and_can_be_filtered(book, lend, staff):
    lend("other", "BookBought")
    client, address = staff(*ALL), url("event")
    assert types_in(client.get(address)) == [
        "BookBought",
        "BookReturned",
        "BookLent",
        "BookBought",
    ]
    query = {"event_type": "BookBought"}
    assert len(types_in(client.get(address, query))) == 2
    query = {"event_type": "BookBought", "by": "librarian"}
    assert types_in(client.get(address, query)) == ["BookBought"]
    assert types_in(client.get(address, {"type": "Reader"})) == []
    assert types_in(client.get(address, {"by": "nobody"})) == []


def test_the_feed_is_paged_even_among_events_of_one_instant(lend, staff, history):
    lend("a", *["BookRead"] * 130)
    history.update_many({}, {"$set": {"created": dt.datetime(2026, 1, 1)}})
    client = staff(*ALL)
    for first in ("?", "?event_type=BookRead", "?type=Book"):
        found, query = [], first
        while query is not None:
            response = client.get(url("event") + query)
            found += [row["version"] for row in response.context["rows"]]
            query = response.context["links"]["older"]
        assert found == list(range(130, 0, -1))


@pytest.fixture
def tagged(store):
    """Seven events, of which four have the tag x, two of them the tag y, too."""
    for number in range(7):
        event = {"type": "A" if number < 5 else "B", "payload": {"n": number}}
        if number % 2:
            stream = {"aggregateId": "plain", "aggregateType": "Plain"}
            EventStore.append_event({**event, **stream})
        else:
            tags = ["x", "y <b>"] if number > 3 else ["x"]
            EventStore.append_event({**event, "tags": tags})


def test_the_feed_of_a_tag(tagged, staff):
    client, address = staff(*ALL), url("event")
    assert types_in(client.get(address, {"tag": "x"})) == ["B", "A", "A", "A"]
    assert types_in(client.get(address, {"tag": "y <b>"})) == ["B", "A"]
    assert types_in(client.get(address, {"tag": "x", "event_type": "B"})) == ["B"]
    assert types_in(client.get(address, {"tag": "unknown"})) == []
    query = {"tag": "x", "since": "2020-01-01", "until": "2020-01-02"}
    assert types_in(client.get(address, query)) == []
    query = {"tag": "x", "since": "2020-01-01"}
    assert len(types_in(client.get(address, query))) == 4


def test_tags_are_links_to_their_feed(tagged, staff):
    client = staff(*ALL)
    page = client.get(url("event"), {"tag": "y <b>"})
    assert "y &lt;b&gt;" in page.content.decode()
    rows = page.context["rows"]
    (link,) = {href for row in rows for tag, href in row["tags"] if "y" in tag}
    assert types_in(client.get(link)) == ["B", "A"]
    assert f'href="{link}"' in client.get(rows[0]["url"]).content.decode()


def test_the_feed_of_a_tag_is_paged_in_both_directions(store, staff, history):
    for number in range(120):
        options = {} if number % 3 else {"id": f"$own-{number:03}"}
        EventStore.append_event({"type": "A", "tags": ["x"], **options})
    history.update_many({}, {"$set": {"created": dt.datetime(2026, 1, 1)}})
    client = staff(*ALL)
    found, queries = [], ["?tag=x"]
    while queries[-1] is not None:
        response = client.get(url("event") + queries[-1])
        found.append([row["id"] for row in response.context["rows"]])
        queries.append(response.context["links"]["older"])
    assert [len(page) for page in found] == [50, 50, 20]
    assert len({one for page in found for one in page}) == 120
    back = client.get(url("event") + queries[-2]).context["links"]["newer"]
    response = client.get(url("event") + back)
    assert [row["id"] for row in response.context["rows"]] == found[1]


def test_events_of_the_node_package_are_paged_with_the_others(lend, staff, history):
    lend("a", *["BookRead"] * 120)
    half = {"aggregateVersion": {"$lte": 60}}
    history.update_many(half, {"$set": {"created": 1.7e12}, "$unset": {"metadata": 1}})
    client, found, query = staff(*ALL), [], ""
    while query is not None:
        response = client.get(url("event") + query)
        found += [row["version"] for row in response.context["rows"]]
        query = response.context["links"]["older"]
    assert sorted(found) == list(range(1, 121))


def test_an_event_is_found_by_its_id(book, staff):
    client = staff(*ALL)
    (event_id, *_) = (event["_id"] for event in EventStore.get_event_stream(book.id))
    response = client.get(url("event"), {"q": str(event_id)})
    assert response["Location"] == url("event", "change", str(event_id))
    response = client.get(url("event"), {"q": "nothing"})
    assert "No event has this id" in text_of(response)
    assert client.get(url("event", "change", "nothing")).status_code == 404
    assert client.get(url("event", "change", str(ObjectId()))).status_code == 404


def test_an_event_shows_what_led_to_what(store, staff):
    def append(stream, event_id, **metadata):
        EventStore.append_event(
            {
                "aggregateId": stream,
                "aggregateType": "Book",
                "type": f"Type{event_id}",
                "id": event_id,
                "metadata": metadata,
            }
        )

    append("a", "cause", correlationId="visit-7")
    append("b", "effect", correlationId="visit-7", causationId="cause")
    append("c", "beside", correlationId="visit-7")
    append("c", "other", correlationId="visit-8")
    client = staff(*ALL)

    def shown(event_id):
        rows = client.get(url("event", "change", event_id)).context["tree"]
        return [(row["id"], row["opens"], len(row["closes"])) for row in rows]

    tree = [("cause", True, 0), ("effect", False, 1), ("beside", False, 0)]
    assert shown("cause") == shown("effect") == shown("beside") == tree
    page = client.get(url("event", "change", "effect"))
    assert 'aria-current="page"><bdi>Typeeffect</bdi>' in page.content.decode()
    assert client.get(url("event", "change", "other")).context["tree"] is None
    beside = client.get(url("event", "change", "beside")).context
    assert (beside["previous"], beside["next"]["id"]) == (None, "other")
    feed = client.get(page.context["correlation_url"])
    assert len(feed.context["rows"]) == 3


def chain_of(*links, **fields):
    """Append events of one correlation, each with an id and the id of its cause."""
    for event_id, cause in links:
        metadata = {"correlationId": "c", "causationId": cause}
        event = {"aggregateId": "a", "aggregateType": "Book", "type": "Type<b>"}
        EventStore.append_event(
            {**event, "id": event_id, "metadata": metadata, **fields}
        )


def test_a_tree_of_forged_ids_is_safe_and_bounded(store, staff, monkeypatch):
    monkeypatch.setattr(trees, "MOST_EVENTS", 5)
    forged = "<script>alert(1)</script>"
    chain_of(("a", "b"), ("b", "a"), ("late", forged))
    client = staff(*ALL)
    page = client.get(url("event", "change", "a"))
    assert [row["is_circular"] for row in page.context["tree"]] == [True, False, False]
    assert page.context["tree"][2]["lacks_cause"]
    assert b"Type<b>" not in page.content
    chain_of(*((str(number), "late") for number in range(9)))
    page = client.get(url("event", "change", "late"))
    assert len(page.context["tree"]) == 5
    assert "Truncated: there are more" in text_of(page)
    assert b"<script>alert" not in page.content


def test_a_long_chain_of_causes_closes_its_lists(store, staff):
    chain_of(("0", "gone"), *((str(n), str(n - 1)) for n in range(1, 40)))
    html = staff(*ALL).get(url("event", "change", "39")).content.decode()
    tree = html[html.index('<ul class="es-tree">') : html.index("All events with")]
    assert tree.count("<ul") == tree.count("</ul>") == 40
    assert tree.count("<li") == tree.count("</li>") == 40
    assert "Truncated" not in tree


def test_without_the_indexes_the_page_shows_causes_only(store, staff, history):
    chain_of(("a", "gone"), ("b", "a"))
    history.drop_index(CAUSATION.name)
    try:
        page = staff(*ALL).get(url("event", "change", "b"))
    finally:
        history.create_index(list(CAUSATION.keys), **CAUSATION.options)
    assert [row["id"] for row in page.context["tree"]] == ["a", "b"]
    assert "because an index is missing" in text_of(page)


def test_a_large_event_is_downloaded_in_full(store, staff):
    text = "x" * 1_000_000
    EventStore.append_event(
        {
            "aggregateId": "big",
            "aggregateType": "Book",
            "type": "BookBought",
            "id": "big-1",
            "payload": {"text": text, "title": "Emma"},
        }
    )
    client = staff(*ALL)
    for address in (url("event"), url("stream", "change", "big")):
        response = client.get(address)
        assert len(response.content) < 200_000
        assert "A payload of 976.6 KB" in text_of(response)
    page = client.get(url("event", "change", "big-1"))
    assert len(page.content) < 200_000
    assert "Download the full event" in text_of(page)
    event = json.loads(client.get(url("event", "download", "big-1")).content)
    assert event["payload"]["text"] == text


# --- what the code makes of an event -----------------------------------------


@pytest.fixture
def old_events(store, declarations):
    old_loans.declare()
    stored = old_loans.store_events(
        "Lent", "Scanned", "Noise", ("Lent", 3), "Other", ("Lent", 9)
    )
    return [event["_id"] for event in stored]


@pytest.mark.parametrize(
    ("at", "results", "upcasters"),
    [(0, 1, ["Lent 1 → 2", "Lent 2 → 3"]), (1, 3, ["Scanned 1 → 2", "Lent 2 → 3"])],
)
def test_the_page_of_an_event_shows_what_the_code_makes_of_it(
    old_events, staff, at, results, upcasters
):
    response = staff(*ALL).get(url("event", "change", old_events[at]))
    text = html.unescape(text_of(response))
    assert "As read today" in text
    assert len(response.context["results"]) == results
    today, _, stored = text.replace(" : ", ": ").partition("As stored")
    assert '"weeks": 3' in today
    assert '"who": "ann"' in stored
    shown = response.context["upcasters"]
    assert [one[one.index("(") + 1 : -1] for one in shown] == upcasters


def test_the_page_of_an_event_says_that_upcasters_drop_it(old_events, staff):
    text = text_of(staff(*ALL).get(url("event", "change", old_events[2])))
    assert "Upcasters drop this event" in text


def test_the_page_of_a_current_event_shows_it_once(old_events, staff):
    client = staff(*ALL)
    for event_id in old_events[3:5]:
        text = text_of(client.get(url("event", "change", event_id)))
        assert "As read today" not in text


def test_an_event_that_the_code_cannot_read_is_shown_with_the_reason(old_events, staff):
    client = staff(*ALL)
    response = client.get(url("event", "change", old_events[5]))
    text = text_of(response)
    assert "UnknownEventVersion" in text
    assert "up to version 3" in text
    assert "As stored" in text
    assert client.get(url("stream", "change", "a")).status_code == 200


def test_an_event_is_copied_as_a_test_of_its_stream(book, staff, history):
    client = staff(*ALL)

    def as_test(number=1):
        address = url("event", "change", str(book.events[number]["_id"]))
        response = client.get(address)
        code = html.escape(response.context["test"] or "")
        assert f"<code>{code}</code>" in response.content.decode() or not code
        return response.context["test"]

    names = {}
    exec(as_test(), names)
    names["test_book"]()
    assert '"BookBought"' in as_test()
    assert "BookReturned" not in as_test()

    long = {"to": "x" * 5000}
    history.update_one({"aggregateVersion": 2}, {"$set": {"payload": long}})
    assert as_test().startswith("event = {")
    assert "given" in as_test(0)
    history.delete_one({"aggregateVersion": 1})
    assert as_test(2) == 'event = {"type": "BookReturned"}\n'
    history.update_one({"aggregateVersion": 3}, {"$set": {"aggregateType": "Unknown"}})
    assert as_test(2) == 'event = {"type": "BookReturned"}\n'
    history.update_one({"aggregateVersion": 3}, {"$unset": {"aggregateType": 1}})
    assert as_test(2) is None
