"""The page of the event types: what is declared, and what is stored."""

import pytest

from ossy_event_store import EventStore
from ossy_event_store.admin.catalogue import pages
from ossy_event_store.documents.catalogue import declaration
from ossy_event_store.documents.catalogue.declaration import Declarations
from tests.support.admin import ALL, NOT_ON_DJONGO, text_of, url

pytestmark = [pytest.mark.versions, pytest.mark.django_db, NOT_ON_DJONGO]


@pytest.fixture
def address():
    return url("event", "catalogue")


def test_it_lists_what_is_declared_without_a_query_for_what_is_stored(
    event_types, store, staff, address, monkeypatch
):
    def never(*args):
        raise AssertionError("asked the database")

    monkeypatch.setattr(pages, "stored_types", never)
    response = staff(*ALL).get(address)
    text = text_of(response)
    for part in ("BookLent", "book_lent", "A book was lent. &lt;b&gt;", "with_days"):
        assert part in text
    assert "title: str = &#x27;&lt;i&gt;&#x27;" in text
    assert "mails" in text
    html = response.content.decode()
    assert "<script>alert" not in html
    assert "\u202e" not in html
    assert url("subscription", "change", "mails") not in html


def test_what_it_names_is_a_link_for_users_who_may_see_it(event_types, staff, address):
    html = staff(*ALL, "view_subscription").get(address).content.decode()
    assert url("subscription", "change", "mails") in html


def test_it_counts_what_is_stored_on_demand(event_types, lend, staff, address, history):
    lend("emma", "BookLent", "BookBought")
    history.update_one({"type": "BookLent"}, {"$set": {"typeVersion": 7}})
    page = text_of(staff(*ALL).get(address, {"stored": 1}))
    assert "BookLent 7 1 " in page
    assert "cannot be read: version 7 is stored" in page
    assert "BookBought 1 1 " in page
    assert "not declared" in page
    assert r"Never stored: &lt;script&gt;alert(1)&lt;/script&gt;\u202e" in page


def test_it_says_when_the_time_did_not_suffice(lend, staff, address, monkeypatch):
    lend("emma", "BookLent")
    monkeypatch.setattr(pages, "STORED_SECONDS", 0.000001)
    page = text_of(staff(*ALL).get(address, {"stored": 1}))
    assert "could not be read in time" in page


def test_contradictions_are_shown(event_types, staff, address):
    declaration.declarations.upcasters.clear()
    page = text_of(staff(*ALL).get(address))
    assert "BookLent&#x27; is at version 2, but has no upcaster" in page


def test_nothing_is_declared(staff, address, monkeypatch, store):
    monkeypatch.setattr(declaration, "declarations", Declarations())
    page = text_of(staff(*ALL).get(address, {"stored": 1}))
    assert "The code declares no event types." in page
    assert "No events yet." in page


def test_it_needs_the_permission_for_events(staff, address, store):
    client = staff("view_stream")
    assert client.get(address).status_code == 403
    assert address not in client.get(url("stream", "overview")).content.decode()


def test_the_feed_and_the_overview_lead_to_it(staff, address, store):
    client = staff(*ALL)
    assert EventStore.count() == 0
    for page in (url("event"), url("stream", "overview")):
        assert f'href="{address}"' in client.get(page).content.decode()
