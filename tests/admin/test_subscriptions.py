"""The pages of subscriptions: permissions, status, retrying and skipping."""

import threading
from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.sites import site
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from ossy_event_store import Projection, models, register_projection
from ossy_event_store.admin.subscriptions import SubscriptionAdmin, _span
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring.status import status
from ossy_event_store.projections import projection
from ossy_event_store.subscriptions import checkpoints, declaration
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.admin import APP, NOT_ON_DJONGO, text_of, url
from tests.support.positions import event
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, reached, running

pytestmark = [
    pytest.mark.versions,
    pytest.mark.django_db,
    pytest.mark.usefixtures("quick"),
    NOT_ON_DJONGO,
]

SEE, OPERATE = "view_subscription", "operate_subscription"


def one_url(page, name="mails", **query):
    address = reverse(f"admin:{APP}_subscription_{page}", args=[quote(name)])
    return f"{address}?{urlencode(query)}" if query else address


def logged():
    return [(entry.object_id, entry.change_message) for entry in LogEntry.objects.all()]


# --- who may ----------------------------------------------------------------


def every_url():
    for pattern in site._registry[models.Subscription].get_urls():
        takes = "object_id" in pattern.pattern.converters
        yield reverse(f"admin:{pattern.name}", args=["mails"] if takes else [])


def test_every_url_is_forbidden_without_its_permission(mails, staff):
    client = staff("view_stream", "view_event", OPERATE)
    addresses = list(every_url())
    assert len(addresses) == 10
    for address in addresses:
        assert client.get(address).status_code == 403, address
        assert client.post(address).status_code == 403, address


def test_every_url_redirects_anonymous_users_to_the_login(mails, client):
    for address in every_url():
        response = client.post(address)
        assert response.status_code == 302
        assert response["Location"].startswith(reverse("admin:login"))


def test_users_who_may_only_view_see_no_button_and_change_nothing(mails, staff, store):
    client = staff(SEE)
    text = text_of(client.get(one_url("change")))
    assert "no address" in text
    assert "Retry" not in text
    assert "Skip" not in text
    before = parked(store)
    for page in ("retry", "skip"):
        address = one_url(page, stream="emma", position=1)
        assert client.post(address, {"reason": "x"}).status_code == 403
    assert parked(store) == before
    assert logged() == []


def test_a_link_operates_nothing(mails, staff, store):
    client = staff(SEE, OPERATE)
    for page in ("retry", "skip"):
        address = one_url(page, stream="emma", position=1)
        assert client.get(address).status_code == 405
    assert not parked(store)[0]["retry"]


def test_another_site_operates_nothing(mails, staff, store):
    staff(SEE, OPERATE)
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get(username="ann"))
    for page in ("retry", "skip"):
        address = one_url(page, stream="emma", position=1)
        assert client.post(address, {"reason": "x"}).status_code == 403
    assert not parked(store)[0]["retry"]


# --- status ------------------------------------------------------------------


def test_all_subscriptions_are_listed_with_their_status(mails, stopped, staff):
    subscription("new")(print)
    response = staff(SEE).get(url("subscription"))
    text = text_of(response)
    rows = {row["name"]: row for row in response.context["rows"]}
    assert list(rows) == ["bills", "mails", "new"]
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {"bills": "stopped", "mails": "not running", "new": "new"}
    assert (rows["mails"]["position"], rows["mails"]["lag"]) == (3, 2)
    assert rows["mails"]["parked"] == 1
    assert "ValueError: no price" in text
    assert "never run" in text


def test_a_damaged_stream_is_named(store, history, lend, staff):
    history.insert_one(event("dam<aged", 2))
    assign_positions(threading.Event())
    text = text_of(staff(SEE).get(url("subscription")))
    assert "Stream dam&lt;aged: Version 1 is missing before version 2." in text


def test_a_running_subscription_shows_its_owner(store, lend, staff):
    subscription("mails")(lambda event: None)
    lend("emma", "BookBought")
    client = staff(SEE)
    with running("mails") as runner:
        reached(store, "mails", 1)
        text = text_of(client.get(one_url("change")))
    assert f"Run by {runner.owner}" in text
    assert "State running" in text
    assert "Lag up to date" in text
    assert "Parked streams None." in text


def test_a_parked_stream_is_shown_with_its_event_and_its_error(mails, staff):
    client = staff(SEE, OPERATE, "view_stream", "view_event")
    response = client.get(one_url("change"))
    text = text_of(response)
    assert "emma BookBought , version 1" in text
    assert r"ValueError: no address &lt;b&gt;\u202e" in text
    assert "in mail" in text  # of the traceback
    assert "Last error" not in text  # it is the error of the parked stream
    (row,) = response.context["parked"]
    assert row["attempts"] == 1
    assert "BookBought" in text_of(client.get(row["event_url"]))
    assert "As of version 1" in text_of(client.get(row["stream_url"]))


def test_users_who_may_not_view_streams_or_events_get_no_links_to_them(mails, staff):
    (row,) = staff(SEE).get(one_url("change")).context["parked"]
    assert row["event_url"] is None
    assert row["stream_url"] is None


def test_parked_streams_beyond_the_limit_are_counted(mails, staff, lend, monkeypatch):
    monkeypatch.setattr(SubscriptionAdmin, "parked_limit", 1)
    mails.update(f"book-{number}" for number in range(3))
    for aggregate_id in mails:
        lend(aggregate_id, "BookLent")
    with running("mails"):
        reached(connection.blocking(), "mails", 7)
    assert "and 3 more" in text_of(staff(SEE).get(one_url("change")))


def test_a_projection_is_listed_while_it_is_being_rebuilt(store, staff):
    more = {"generation": 2, "revision": "1"}
    begin = checkpoints.find_or_create(
        store, "loans@2", "beginning", projection.BUILD_KIND, **more
    )
    drive(begin)
    text = text_of(staff(SEE).get(url("subscription")))
    assert "loans@2 projection being rebuilt not running" in text


def test_a_subscription_that_is_no_longer_declared_says_so(mails, staff):
    declaration._registered.clear()
    text = text_of(staff(SEE).get(one_url("change")))
    assert "not declared in this project" in text
    assert "Forget" not in text


# --- pausing and forgetting -------------------------------------------------


def test_a_subscription_is_paused_and_resumed(mails, staff, store):
    client = staff(SEE, OPERATE)
    assert "Pause" in text_of(client.get(one_url("change")))
    text = text_of(client.post(one_url("pause"), follow=True))
    assert "paused since" in text
    assert "ann" in text
    assert checkpoint(store, "mails")["paused"]["by"] == "ann"
    text = text_of(client.post(one_url("resume"), follow=True))
    assert "paused" not in text
    assert sorted(logged()) == [("mails", "Paused."), ("mails", "Resumed.")]
    client.post(one_url("resume"))  # it is done already
    assert len(logged()) == 2


def test_what_is_no_longer_declared_is_forgotten(mails, staff, store):
    client = staff(SEE, OPERATE)
    text = text_of(client.post(one_url("forget"), follow=True))
    assert "Mails is declared in this project" in text
    declaration._registered.clear()
    assert "Forget" in text_of(client.get(one_url("change")))
    text = text_of(client.post(one_url("forget"), follow=True))
    assert "mails" not in text
    assert logged() == [("mails", "Forgotten.")]
    assert checkpoint(store, "mails") is None


def test_a_projection_whose_class_has_changed_says_so(store, lend, staff, monkeypatch):
    monkeypatch.setattr(projection, "_registered", {})

    @register_projection
    class Loans(Projection):
        name = "loans"

        @staticmethod
        def key(event):
            return event["aggregateId"]

        @staticmethod
        def apply(event, state):
            return state

    lend("emma", "BookBought")
    with running("loans"):
        reached(store, "loans", 1)
    client = staff(SEE)
    assert "Kind projection" in text_of(client.get(one_url("change", "loans")))
    changed = "its class, or an upcaster, has changed since it was built"
    assert changed not in text_of(client.get(one_url("change", "loans")))
    documents = connection.raw(store.subscriptions)
    documents.update_one({"_id": "loans"}, {"$set": {"revision": "old"}})
    assert changed in text_of(client.get(one_url("change", "loans")))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 seconds"),
        (1, "1 second"),
        (119, "119 seconds"),
        (120, "2\xa0minutes"),
        (7300, "2\xa0hours"),
        (200_000, "2\xa0days"),
    ],
)
def test_a_lag_has_one_unit(seconds, text):
    assert _span(seconds) == text


@pytest.mark.parametrize(
    "page", ["change", "retry", "skip", "pause", "resume", "forget"]
)
def test_a_subscription_that_does_not_exist_has_no_page(mails, staff, page):
    client = staff(SEE, OPERATE)
    address = one_url(page, "other", position=1)
    ask = client.get if page == "change" else client.post
    assert ask(address, {"reason": "x"}).status_code == 404


# --- retrying ---------------------------------------------------------------


def test_a_parked_stream_is_retried_and_released(mails, staff, store):
    client = staff(SEE, OPERATE)
    (row,) = client.get(one_url("change")).context["parked"]
    response = client.post(row["retry_url"], follow=True)
    assert "Retry requested; it happens once" in text_of(response)
    assert "retry requested" in text_of(response)
    assert logged() == [("mails", "Requested a retry of stream 'emma'.")]
    mails.clear()
    with running("mails"):
        until(lambda: not parked(store))
    assert "Parked streams None." in text_of(client.get(one_url("change")))


def test_all_streams_are_retried(mails, staff, store):
    client = staff(SEE, OPERATE)
    client.post(one_url("retry"))
    assert parked(store)[0]["retry"]
    assert logged() == [("mails", "Requested a retry of everything that failed.")]


def test_a_stream_that_is_not_parked_is_not_retried(mails, staff):
    client = staff(SEE, OPERATE)
    response = client.post(one_url("retry", stream="ulysses"), follow=True)
    assert "Nothing is left to retry." in text_of(response)
    assert logged() == []


def test_a_stopped_subscription_is_retried(stopped, staff, store):
    client = staff(SEE, OPERATE)
    text = text_of(client.get(one_url("change", "bills")))
    assert "No event is delivered until you retry or skip this one" in text
    assert "emma" in text
    client.post(one_url("retry", "bills"))
    assert checkpoint(store, "bills")["stopped"] is None
    assert drive(status(store, "bills")).state == "not running"


# --- skipping ---------------------------------------------------------------


def test_an_event_is_skipped_with_a_reason_and_later_ones_are_delivered(
    mails, staff, store
):
    client = staff(SEE, OPERATE)
    (row,) = client.get(one_url("change")).context["parked"]
    response = client.post(row["skip_url"], {"reason": " a test order "}, follow=True)
    text = text_of(response)
    assert "Skipped the event" in text
    assert "catching up" in text
    assert "ann a test order ValueError" in text
    (entry,) = logged()
    assert entry[0] == "mails"
    assert entry[1].startswith("Skipped BookBought (")
    assert entry[1].endswith("), version 1 of stream 'emma': a test order")
    (kept,) = connection.raw(store.skipped).find()
    assert (kept["reason"], kept["skippedBy"]) == ("a test order", "ann")
    mails.clear()
    with running("mails"):
        until(lambda: not parked(store))


def test_without_a_reason_no_event_is_skipped(mails, staff, store):
    client = staff(SEE, OPERATE)
    (row,) = client.get(one_url("change")).context["parked"]
    for reason in ({}, {"reason": "  "}):
        response = client.post(row["skip_url"], reason, follow=True)
        assert "Enter a reason" in text_of(response)
    assert parked(store)[0]["eventId"] is not None
    assert logged() == []


def test_only_the_event_on_the_page_is_skipped(mails, staff, store):
    client = staff(SEE, OPERATE)
    (row,) = client.get(one_url("change")).context["parked"]
    client.post(row["skip_url"], {"reason": "a test order"})
    with running("mails"):  # it fails at the next one
        until(lambda: parked(store)[0]["eventId"] is not None)
    response = client.post(row["skip_url"], {"reason": "pressed twice"}, follow=True)
    assert "This event no longer blocks delivery." in text_of(response)
    assert connection.raw(store.skipped).count_documents({}) == 1
    assert len(logged()) == 1


@pytest.mark.parametrize("position", ["", "x", "-1", "1.0", "²"])
def test_skipping_takes_the_position_of_an_event(mails, staff, store, position):
    client = staff(SEE, OPERATE)
    address = one_url("skip", stream="emma", position=position)
    assert client.post(address, {"reason": "x"}).status_code == 404
    assert connection.raw(store.skipped).count_documents({}) == 0


def test_the_event_that_stopped_a_subscription_is_skipped(stopped, staff, store):
    client = staff(SEE, OPERATE)
    address = client.get(one_url("change", "bills")).context["skip_url"]
    response = client.post(address, {"reason": "a free one"}, follow=True)
    assert "Skipped the event" in text_of(response)
    with running("bills"):
        reached(store, "bills", 2)


@pytest.mark.parametrize("odd", ["a/b?c#d e", "line\nbreak", "%2F", "<b>é</b>"])
def test_the_buttons_work_for_names_with_any_characters(store, lend, staff, odd):
    @subscription(odd, retries=0)
    def fail(event):
        raise ValueError

    lend(odd, "BookBought")
    with running(odd):
        until(lambda: parked(store))
    client = staff(SEE, OPERATE, "view_stream", "view_event")
    (listed,) = client.get(url("subscription")).context["rows"]
    (row,) = client.get(listed["url"]).context["parked"]
    client.post(row["retry_url"])
    assert parked(store)[0]["retry"]
    client.post(row["skip_url"], {"reason": "odd"})
    assert parked(store)[0]["eventId"] is None
    assert client.get(row["stream_url"]).status_code == 200
