"""The page of the event types, as people use it."""

import dataclasses
import datetime as dt
from decimal import Decimal
from typing import Literal

import pytest
from playwright.sync_api import expect

from ossy_event_store import EventStore, event, upcaster
from ossy_event_store.documents.catalogue import declaration
from ossy_event_store.documents.catalogue.declaration import Declarations
from ossy_event_store.mongodb import connection
from ossy_event_store.subscriptions.declaration import subscription
from tests.browser.accessibility import axe
from tests.browser.chromium import VARIANTS

CATALOGUE = "/admin/ossy_event_store/event/catalogue/"
WIDE = "document.documentElement.scrollWidth > window.innerWidth"


@pytest.fixture
def declared(store, quick, monkeypatch):
    # Appends know none of them: these tests store what the classes refuse.
    monkeypatch.setattr(declaration, "declarations", Declarations())

    @event("BookLent", version=3, aliases=["book_lent"])
    @dataclasses.dataclass
    class BookLent:
        """
        A reader took a book home.

        The day is that of the branch.
        """

        reader: str
        due: dt.date
        fee: Decimal = Decimal("0.00")
        kind: Literal["adult", "child"] = "adult"

    @upcaster("BookLent", 1)
    def with_due(payload):
        return payload

    @upcaster("BookLent", 2, into={"FeeCharged": 1})
    def without_fee(payload):
        return payload

    @event("FeeCharged")
    @dataclasses.dataclass
    class FeeCharged:
        """A fee was charged."""

        amount: Decimal

    event("BookSold")(dataclasses.make_dataclass("BookSold", [("price", Decimal)]))
    subscription("mails_to_readers", types=["BookLent", "FeeCharged"])(print)
    kinds = ["BookLent"] * 3 + ["FeeCharged", "ReaderJoined"]
    for number, kind in enumerate(kinds):
        EventStore.append_event(
            {"aggregateId": f"s{number}", "aggregateType": "Book", "type": kind}
        )
    events = connection.raw(store.events)
    events.update_one({"aggregateId": "s1"}, {"$set": {"typeVersion": 3}})
    events.update_one({"aggregateId": "s2"}, {"$set": {"typeVersion": 4}})


@pytest.mark.parametrize("page", VARIANTS, indirect=True)
def test_it_shows_what_is_declared_and_on_demand_what_is_stored(
    page, declared, superuser, log_in, shot
):
    log_in(page, superuser)
    page.goto("/admin/ossy_event_store/event/")
    page.locator(".object-tools a").first.click()
    assert page.url.endswith(CATALOGUE)
    expect(page.locator("td", has_text="due: date")).to_be_visible()
    assert axe(page) == []
    page.locator("button[name=stored]").click()
    expect(page.locator("#es-stored")).to_be_visible()
    expect(page.locator(".es-ahead")).to_have_count(1)
    shot(page, "catalogue")
    assert axe(page) == []
    assert not page.evaluate(WIDE)
    page.locator("tr", has_text="ReaderJoined").get_by_role("link").click()
    expect(page.locator(".es-table tbody tr")).to_have_count(1)
