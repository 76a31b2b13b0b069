"""Every word on the admin's pages can be translated."""

import re
from html.parser import HTMLParser

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import translation

from ossy_event_store import Aggregate, AggregateRebuild, EventStore
from ossy_event_store.documents.catalogue import declaration as event_declaration
from ossy_event_store.subscriptions import declaration
from ossy_event_store.subscriptions.declaration import subscription
from tests.library.aggregate import Book
from tests.support.admin import NOT_ON_DJONGO, url
from tests.support.outbox import away, commit, lent, park, waiting
from tests.support.relational import SQL

pytestmark = [pytest.mark.versions, NOT_ON_DJONGO]

# Elements whose text is data, or the same in every language.
DATA = {"bdi", "time", "pre", "code", "script", "style"}
SPOKEN = ("aria-label", "title", "placeholder", "alt", "data-label", "data-es-done")
VOID = {"br", "img", "input", "link", "meta", "hr", "rect", "line"}


def marked(text):
    return f"⟦{text}⟧"


@pytest.fixture
def marking(monkeypatch):
    """Mark translated texts, so that untranslated ones stand out."""
    functions = translation._trans
    for name, wrapped in {
        "gettext": marked,
        "pgettext": lambda context, text: marked(text),
        "ngettext": lambda one, many, number: marked(one if number == 1 else many),
        "npgettext": lambda context, one, many, number: marked(
            one if number == 1 else many
        ),
    }.items():
        monkeypatch.setattr(functions, name, wrapped, raising=False)


class Texts(HTMLParser):
    """The texts in the main part of a page, without data."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.texts = []

    @property
    def is_inside(self):
        return ("main" in self.open) and not DATA & set(self.open)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        name = "main" if attributes.get("id") == "main" else tag
        if tag == "option" and attributes.get("value"):
            name = "bdi"  # the name of a type
        if tag not in VOID:
            self.open.append(name)
        if self.is_inside:
            self.texts += [attributes.get(name) or "" for name in SPOKEN]
            if attributes.get("type") == "submit":
                self.texts.append(attributes.get("value") or "")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        if self.is_inside:
            self.texts.append(data)


def untranslated(html):
    """Return the words on a page that were not translated."""
    parser = Texts()
    parser.feed(html)
    assert parser.texts
    text = "\n".join(text for text in parser.texts if text.strip())
    while (inner := re.sub("⟦[^⟦⟧]*⟧", "", text)) != text:
        text = inner
    return [line.strip() for line in text.splitlines() if re.search("[A-Za-z]", line)]


@pytest.fixture
def pages(store, client, db):
    """Streams of every status, and a superuser who is logged in."""
    book = Aggregate.of(
        Book,
        {"aggregateId": "emma", "aggregateType": "Book", "type": "BookBought"},
    )
    book.add({"type": "BookLent", "payload": {"to": "ann"}, "createdBy": "eve"}).save()
    EventStore.append_event(
        {"aggregateId": "torn", "aggregateType": "Book", "type": "BookLent"}
    )
    EventStore.append_event(
        {"aggregateId": "x", "aggregateType": "Ship", "type": "Built"}
    )
    AggregateRebuild.build_and_save_all(stale=True)
    for number in range(60):
        book.add({"type": "BookLent", "payload": {"to": "x" * number}})
    client.force_login(User.objects.create_superuser("root"))
    return book


def test_every_text_on_the_pages_of_streams_and_events_is_translated(
    pages, client, marking
):
    (event, *_), last = pages.events[:1], pages.events[-1]
    streams, events = url("stream", "changelist"), url("event", "changelist")
    emma = url("stream", "change", "emma")
    for address in (
        streams,
        f"{streams}?q=e",
        f"{streams}?q=nothing",
        f"{streams}?since=soon",
        f"{streams}?by=eve",
        url("stream", "overview"),
        emma,
        f"{emma}?version=1",
        f"{emma}?version=30&order=oldest",
        f"{emma}?fresh=1",
        f"{emma}?at=soon",
        f"{emma}?at=2001-01-01T00:00",
        url("stream", "change", "torn"),
        url("stream", "change", "x"),
        events,
        f"{events}?event_type=BookLent",
        f"{events}?by=nobody",
        f"{events}?q=nobody",
        f"{events}?since=soon",
        url("event", "change", str(event["_id"])),
        url("event", "change", str(last["_id"])),
    ):
        response = client.get(address, follow=True)
        assert response.status_code == 200, address
        assert untranslated(response.content.decode()) == [], address


def test_every_text_on_the_page_of_the_event_types_is_translated(
    event_types, pages, client, marking
):
    page = url("event", "catalogue")
    for address in (page, f"{page}?stored"):
        html = client.get(address).content.decode()
        assert untranslated(html) == [], address
    event_declaration.declarations.upcasters.clear()
    assert untranslated(client.get(page).content.decode()) == []


@pytest.mark.usefixtures("quick")
def test_every_text_on_the_pages_of_subscriptions_is_translated(
    mails, stopped, client, db, marking, store
):
    subscription("never run")(print)
    client.force_login(User.objects.create_superuser("root"))
    listed, one = (
        url("subscription", "changelist"),
        url("subscription", "change", "mails"),
    )
    (row,) = client.get(one).context["parked"]
    for address in (
        listed,
        one,
        url("subscription", "change", "bills"),
        url("subscription", "change", "never run"),
    ):
        response = client.get(address)
        assert untranslated(response.content.decode()) == [], address
    declaration._registered.clear()
    for address, reason in (
        (row["skip_url"], ""),
        (row["skip_url"], "no address"),
        (row["skip_url"], "no address"),
        (row["retry_url"], ""),
        (url("subscription", "retry", "mails") + "?stream=none", ""),
    ):
        response = client.post(address, {"reason": reason}, follow=True)
        assert response.status_code == 200
        assert untranslated(response.content.decode()) == [], address


def test_every_text_on_the_pages_of_an_outbox_is_translated(
    client, db, sql, marking, monkeypatch
):
    with away(monkeypatch):
        commit(lent(), lent("b-2"))
    first, second = waiting()
    park(first, "no")
    park(second, "no")
    client.force_login(User.objects.create_superuser("root"))
    page = reverse("admin:ossy_event_store_subscription_outbox", args=[SQL])
    listed, found = url("subscription", "changelist"), client.get(page)
    rows = found.context["parked"]
    answers = [
        client.post(address, {"reason": reason}, follow=True)
        for address, reason in (
            (rows[0]["discard_url"], ""),
            (rows[0]["discard_url"], "a test"),
            (rows[0]["discard_url"], "a test"),
            (rows[1]["retry_url"], ""),
            (rows[1]["retry_url"], ""),
        )
    ]
    for response in (client.get(listed), found, client.get(page), *answers):
        assert response.status_code == 200
        assert untranslated(response.content.decode()) == []


def test_an_untranslated_text_is_found(pages, client, marking, monkeypatch):
    monkeypatch.setattr(translation._trans, "gettext", lambda text: text)
    found = untranslated(client.get(url("stream", "changelist")).content.decode())
    assert "Last event" in found
    assert "All" in found
