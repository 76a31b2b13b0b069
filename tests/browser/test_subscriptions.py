"""The pages of subscriptions, as operators use them."""

import pytest
from playwright.sync_api import expect

from ossy_event_store import EventStore
from ossy_event_store.mongodb import connection
from ossy_event_store.subscriptions.declaration import subscription
from tests.browser.accessibility import axe
from tests.browser.chromium import VARIANTS
from tests.browser.keyboard import press_until_focused
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, reached, running

pytestmark = pytest.mark.usefixtures("quick")

LIST = "/admin/ossy_event_store/subscription/"
WIDE = "document.documentElement.scrollWidth > window.innerWidth"


@pytest.fixture
def refused():
    """The streams whose events the handler of mails refuses."""
    return {"loan-173688", "loan-173691", "loan-173694"}


@pytest.fixture
def declared(store, refused):
    """Subscriptions that have parked three streams, stopped, and never run."""

    @subscription("mails_to_applicants", retries=0)
    def mail(event):
        if event["aggregateId"] in refused:
            raise ConnectionRefusedError("mail.example.org: no such mailbox")

    @subscription("bookkeeping", retries=0, on_error="stop")
    def book(event):
        if event["type"] == "LoanGranted":
            raise ValueError("account 4711 is closed")

    subscription("statistics")(print)
    for number in range(173685, 173697):
        for kind in ("ApplicationSubmitted", "ApplicationChecked", "LoanGranted"):
            EventStore.append_event(
                {
                    "aggregateId": f"loan-{number}",
                    "aggregateType": "LoanApplication",
                    "type": kind,
                    "createdBy": "clerk-11",
                }
            )
    with running("mails_to_applicants", "bookkeeping"):
        reached(store, "mails_to_applicants", 36)
        until(lambda: len(parked(store)) == 3)
        until(lambda: (checkpoint(store, "bookkeeping") or {}).get("stopped"))


def rows(page):
    return page.locator(".es-parked tbody tr")


def test_an_operator_sees_why_streams_are_parked_and_releases_them(
    page, declared, refused, superuser, log_in, store
):
    log_in(page, superuser)
    page.goto("/admin/")
    page.get_by_role("link", name="Subscriptions").first.click()
    row = page.locator("tbody tr", has_text="mails_to_applicants")
    expect(row).to_contain_text("no such mailbox")
    page.get_by_role("link", name="mails_to_applicants").click()
    expect(rows(page)).to_have_count(3)
    first = rows(page).filter(has_text="loan-173688")
    first.get_by_text("Traceback", exact=True).click()
    expect(first.locator("pre")).to_contain_text("raise ConnectionRefusedError")
    first.get_by_role("link", name="ApplicationSubmitted").click()
    expect(page.get_by_role("heading", name="As stored")).to_be_visible()
    page.go_back()

    refused.discard("loan-173688")
    first.get_by_role("button", name="Retry").click()
    expect(page.locator(".messagelist")).to_contain_text("Retry requested")
    expect(first.locator(".es-status")).to_have_text("retry requested")
    second = rows(page).filter(has_text="loan-173691")
    second.get_by_text("Skip this event").click()
    second.get_by_label("Reason").fill("has moved away")
    second.get_by_role("button", name="Skip").click()
    expect(page.locator(".messagelist")).to_contain_text("Skipped the event")
    skipped = page.get_by_role("region", name="Skipped events")
    expect(skipped).to_contain_text("has moved away")

    refused.clear()
    with running("mails_to_applicants"):
        until(lambda: len(parked(store)) == 1)
        page.reload()
        expect(rows(page)).to_have_count(1)
        expect(page.get_by_text("running", exact=True)).to_be_visible()
        page.get_by_role("button", name="Retry all").click()
        until(lambda: not parked(store))
        page.reload()
        expect(page.get_by_text("None.")).to_be_visible()


def test_an_event_is_skipped_with_the_keyboard_alone(
    page, declared, superuser, log_in, store
):
    log_in(page, superuser)
    page.goto(f"{LIST}bookkeeping/change/")
    expect(page.locator(".errornote")).to_be_visible()
    press_until_focused(page, "summary >> text=Skip this event")
    page.keyboard.press("Enter")
    press_until_focused(page, "#es-reason-0")
    page.keyboard.type("booked manually")
    page.keyboard.press("Enter")
    expect(page.locator(".messagelist")).to_contain_text("Skipped the event")
    assert checkpoint(store, "bookkeeping")["stopped"] is None
    (kept,) = connection.raw(store.skipped).find()
    assert (kept["reason"], kept["skippedBy"]) == ("booked manually", "root")


def test_an_event_is_not_skipped_without_a_reason(
    page, declared, superuser, log_in, store
):
    log_in(page, superuser)
    page.goto(f"{LIST}bookkeeping/change/")
    page.get_by_text("Skip this event").click()
    page.get_by_role("button", name="Skip").click()
    expect(page.get_by_label("Reason")).to_be_focused()
    assert checkpoint(store, "bookkeeping")["stopped"]


@pytest.mark.parametrize("page", VARIANTS, indirect=True)
def test_every_page_is_accessible(page, declared, superuser, log_in, shot):
    log_in(page, superuser)
    for name, url in {
        "subscriptions": LIST,
        "parked": f"{LIST}mails_5Fto_5Fapplicants/change/",
        "stopped": f"{LIST}bookkeeping/change/",
    }.items():
        assert page.goto(url).ok
        for closed in page.locator("#content summary").all():
            closed.click()
        shot(page, name)
        assert [str(violation) for violation in axe(page, "#content")] == [], name
        assert not page.evaluate(WIDE), name
