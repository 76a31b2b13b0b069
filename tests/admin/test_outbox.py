"""The pages of an outbox: permissions, what is shown, retrying and discarding."""

from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from ossy_event_store.relational import outbox
from tests.support.admin import APP, NOT_ON_DJONGO, text_of, url
from tests.support.outbox import away, commit, lent, park, waiting
from tests.support.relational import SQL

pytestmark = [
    pytest.mark.versions,
    pytest.mark.django_db,
    pytest.mark.usefixtures("quick", "sql"),
    NOT_ON_DJONGO,
]
SEE, OPERATE = "view_subscription", "operate_subscription"


@pytest.fixture
def parked(monkeypatch):
    """A stream that is parked at the first of two events; return that row."""
    with away(monkeypatch):
        commit(lent(id="e-1\u202e"), lent())
    row = waiting()[0]
    park(row, "IdempotencyConflict: <b>no</b>")
    return row


def address(page, using=SQL, **query):
    found = reverse(f"admin:{APP}_subscription_{page}", args=[using])
    return f"{found}?{urlencode(query)}" if query else found


def test_the_list_of_subscriptions_shows_each_outbox(parked, staff):
    response = staff(SEE).get(url("subscription"))
    text = text_of(response)
    assert "Outboxes" in text
    (row,) = response.context["outboxes"]
    assert (row["name"], row["waiting"], row["parked"]) == (SQL, 1, 1)
    assert f'href="{address("outbox")}"' in response.content.decode()


def test_without_an_outbox_nothing_is_said_of_it(staff, monkeypatch):
    monkeypatch.setattr(outbox, "candidates", list)
    client = staff(SEE)
    assert "Outboxes" not in text_of(client.get(url("subscription")))
    assert client.get(address("outbox")).status_code == 404


def test_the_page_shows_what_is_parked_and_why(parked, staff):
    response = staff(SEE).get(address("outbox"))
    text = text_of(response)
    assert "IdempotencyConflict: &lt;b&gt;no" in text
    assert "b-1" in text
    assert "BookLent" in text
    assert "\u202e" not in response.content.decode()
    assert "Retry" not in text
    assert "Discard" not in text


def test_a_parked_event_is_retried(parked, staff):
    client = staff(SEE, OPERATE)
    assert "Retry" in text_of(client.get(address("outbox")))
    retry = address("retry_event", number=parked.pk)
    assert client.get(retry).status_code == 405
    response = client.post(retry, follow=True)
    assert "Retry requested" in text_of(response)
    assert waiting()[0].state == "waiting"
    assert "Nothing is left" in text_of(client.post(retry, follow=True))
    park(waiting()[0], "no")
    client.post(address("retry_event"))
    assert waiting()[0].state == "waiting"
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == [
        f"Requested a retry of event {parked.pk}.",
        "Requested a retry of all parked events.",
    ]


def test_a_parked_event_is_discarded_with_a_reason(parked, staff):
    client = staff(SEE, OPERATE)
    discard = address("discard_event", number=parked.pk)
    assert "Enter a reason" in text_of(client.post(discard, follow=True))
    text = text_of(client.post(discard, {"reason": "a <test>\0"}, follow=True))
    assert "Discarded the event" in text
    assert "a &lt;test&gt;" in text
    assert "ann" in text
    row = waiting()[0]
    assert (row.state, row.discarded_by, row.reason) == ("discarded", "ann", "a <test>")
    text = text_of(client.post(discard, {"reason": "x"}, follow=True))
    assert "no longer parked" in text
    (entry,) = LogEntry.objects.all()
    assert "Discarded BookLent" in entry.change_message


@pytest.mark.parametrize("number", ["", "x", "-1", "1" * 30])
def test_a_number_that_is_none_is_not_found(parked, staff, number):
    client = staff(SEE, OPERATE)
    discard = address("discard_event", number=number)
    assert client.post(discard, {"reason": "x"}).status_code == 404
    assert client.post(address("retry_event", number=number)).status_code == 404


def test_a_database_that_is_away_is_said_on_the_page(parked, staff, monkeypatch):
    def fail(using):
        raise outbox.Error("refused")

    client = staff(SEE)
    assert client.get(address("outbox")).status_code == 200
    monkeypatch.setattr(outbox, "figures", fail)
    assert "Error: refused" in text_of(client.get(address("outbox")))
    assert "Error: refused" in text_of(client.get(url("subscription")))
