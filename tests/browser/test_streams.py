"""The pages of streams and events, as people use them."""

import datetime as dt
import json

import pytest
from playwright.sync_api import expect

from ossy_event_store import Aggregate, AggregateRebuild, EventStore, event_context
from tests.browser.accessibility import axe
from tests.browser.chromium import VARIANTS
from tests.browser.keyboard import press_until_focused, press_when_loaded
from tests.library.aggregate import Book

in_every_variant = pytest.mark.parametrize("page", VARIANTS, indirect=True)

STREAMS = "/admin/ossy_event_store/stream/"
EVENTS = "/admin/ossy_event_store/event/"
BY = {"createdBy": "librarian"}


@pytest.fixture
def books(store):
    """Forty books, one of them with a history."""
    for number in range(40):
        EventStore.append_event(
            {
                "aggregateId": f"book-{number:02}",
                "aggregateType": "Book",
                "type": "BookBought",
                "payload": {"title": "Persuasion", "shelf": number},
                **BY,
            }
        )
    emma = Aggregate.of(Book, "book-07")
    for name in ("ann", "bob", "eve"):
        emma.add({"type": "BookLent", "payload": {"to": name}, **BY})
        emma.add({"type": "BookReturned", "payload": {}, "createdBy": name})
    AggregateRebuild.build_and_save_all()
    emma.add({"type": "BookLent", "payload": {"to": "zoe"}, **BY})
    return emma


def change(page):
    """Return the row that shows how the event changed the borrower."""
    return page.locator(".es-changes tr", has_text="lent_to")


def test_a_person_finds_a_stream_and_steps_back_through_its_states(
    page, books, superuser, log_in
):
    log_in(page, superuser)
    page.goto("/admin/")
    page.get_by_role("link", name="Streams").first.click()
    page.get_by_label("Stream", exact=True).fill("book-0")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".es-table tbody tr")).to_have_count(10)
    page.get_by_role("link", name="book-07").click()

    expect(page.get_by_role("heading", name="As of version 8")).to_be_visible()
    expect(change(page)).to_contain_text('"zoe"')
    page.get_by_role("link", name="Previous").click()
    expect(page.get_by_role("heading", name="As of version 7")).to_be_visible()
    expect(change(page)).to_contain_text('"eve"')
    press_when_loaded(page, "ArrowLeft")
    expect(page.get_by_role("heading", name="As of version 6")).to_be_visible()
    press_when_loaded(page, "ArrowRight")
    expect(page.get_by_role("heading", name="As of version 7")).to_be_visible()
    assert "version=7" in page.url

    with page.expect_download() as download:
        page.get_by_role("link", name="Download as JSON lines").click()
    lines = download.value.path().read_text().splitlines()
    assert [json.loads(line)["aggregateVersion"] for line in lines] == list(range(1, 9))

    expect(page.locator(".es-behind")).to_be_visible()
    page.get_by_role("button", name="Rebuild the snapshot").click()
    expect(page.locator(".messagelist")).to_contain_text("at version 8")
    expect(page.get_by_text("same state")).to_be_visible()

    page.locator(".es-timeline").get_by_role("link", name="BookLent").first.click()
    expect(page.get_by_role("heading", name="BookLent")).to_be_visible()
    expect(page.locator(".es-json")).to_contain_text('"zoe"')
    page.get_by_role("link", name="Previous").click()
    expect(page.get_by_role("heading", name="BookReturned")).to_be_visible()


def test_the_keyboard_alone_is_enough(page, books, superuser, log_in):
    log_in(page, superuser)
    page.goto(STREAMS)
    press_until_focused(page, "#es-q")
    page.keyboard.type("book-07")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="As of version 8")).to_be_visible()
    press_until_focused(page, "a[rel=prev]")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="As of version 7")).to_be_visible()
    press_until_focused(page, ".es-timeline a >> nth=1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="As stored")).to_be_visible()
    page.go_back()
    press_until_focused(page, "text=Rebuild the snapshot")
    page.keyboard.press("Enter")
    expect(page.locator(".messagelist")).to_contain_text("Rebuilt")


def test_arrow_keys_in_a_field_do_not_change_the_version(
    page, books, superuser, log_in
):
    log_in(page, superuser)
    page.goto(f"{STREAMS}book-07/change/?version=7")
    page.locator("#es-when").focus()
    press_when_loaded(page, "ArrowLeft")
    expect(page.get_by_role("heading", name="As of version 7")).to_be_visible()


@pytest.mark.parametrize("page", ["mirrored"], indirect=True)
def test_a_right_to_left_page_is_mirrored_except_times_and_code(
    page, books, superuser, log_in
):
    log_in(page, superuser)
    page.goto(f"{STREAMS}book-07/change/?version=7")
    assert page.evaluate("document.documentElement.dir") == "rtl"
    state, timeline = (page.locator(f"section >> nth={n}") for n in (0, 1))
    assert state.bounding_box()["x"] > timeline.bounding_box()["x"]
    for text in page.locator("#content time, #content pre").all():
        assert text.evaluate("e => getComputedStyle(e).direction") == "ltr"
    press_when_loaded(page, "ArrowRight")
    expect(page.get_by_role("heading", name="As of version 6")).to_be_visible()


@in_every_variant
def test_every_page_is_accessible(page, books, superuser, log_in, shot, history):
    with event_context.of(books.events[0]), event_context(createdBy="root"):
        noted = {"aggregateId": "card", "aggregateType": "Reader", "type": "CardNoted"}
        first = EventStore.append_event(noted)
    with event_context.of(first):
        mailed = EventStore.append_event({**noted, "type": "ReaderMailed"})
        EventStore.append_event({**noted, "type": "CardFiled"})
    history.insert_one({"_id": "x", "type": "OfAnother", "created": dt.datetime.now()})
    log_in(page, superuser)
    event_id = books.events[-1]["_id"]
    for name, url in {
        "overview": f"{STREAMS}overview/",
        "streams": STREAMS,
        "search": f"{STREAMS}?q=book-0",
        "stream": f"{STREAMS}book-07/change/?version=6",
        "events": EVENTS,
        "event": f"{EVENTS}{event_id}/change/",
        "tree": f"{EVENTS}{mailed['_id']}/change/",
        "causes": f"{STREAMS}card/change/",
        "user": f"/admin/auth/user/{superuser.pk}/change/",
        "no event": f"{EVENTS}x/change/",
    }.items():
        assert page.goto(url).ok
        shot(page, name)
        # The rest of that page is Django's own.
        part = ".es-history" if name == "user" else "#content"
        assert [str(violation) for violation in axe(page, part)] == [], name
        wide = "document.documentElement.scrollWidth > window.innerWidth"
        assert not page.evaluate(wide), name
