"""Users with some permissions, and streams and subscriptions to look at."""

import dataclasses

import pytest
from django.contrib.auth.models import Permission, User

from ossy_event_store import Aggregate, event, upcaster
from ossy_event_store.documents.catalogue import declaration
from ossy_event_store.documents.catalogue.declaration import Declarations
from ossy_event_store.subscriptions.declaration import subscription
from tests.library.aggregate import Book
from tests.support.admin import APP
from tests.support.catalogue import declarations  # noqa: F401
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, reached, running

MARKUP = "<script>alert(1)</script>\u202e"


@pytest.fixture
def staff(client):
    """Log in a member of the staff with some permissions of the app."""

    def staff(*permissions):
        user = User.objects.create_user("ann", is_staff=True)
        user.user_permissions.set(
            Permission.objects.filter(
                content_type__app_label=APP, codename__in=permissions
            )
        )
        client.force_login(user)
        return client

    return staff


@pytest.fixture
def book(store):
    """A book that was bought, lent and returned, with its snapshot."""
    by = {"createdBy": "librarian"}
    return (
        Aggregate.of(
            Book,
            {
                "aggregateId": "emma-1",
                "aggregateType": "Book",
                "type": "BookBought",
                "payload": {"title": "Emma"},
                **by,
            },
        )
        .add(
            {"type": "BookLent", "payload": {"to": "ann"}, **by},
        )
        .add({"type": "BookReturned"})
        .save()
    )


@pytest.fixture
def snapshots(store, _unbound):
    """The snapshots, with every right, whatever the user of the test run may do."""
    return _unbound(store.snapshots)


@pytest.fixture
def mails(store, lend):
    """A subscription that has parked one of two streams, and the ids it refuses."""
    refused = {"emma"}

    @subscription("mails", retries=0)
    def mail(event):
        if event["aggregateId"] in refused:
            raise ValueError("no address <b>\u202e")

    lend("emma", "BookBought", "BookLent")
    lend("ulysses", "BookBought")
    with running("mails"):
        reached(store, "mails", 3)
    assert [one["aggregateId"] for one in parked(store)] == ["emma"]
    return refused


@pytest.fixture
def stopped(store, lend):
    """A subscription that has stopped at the first of two events."""

    @subscription("bills", retries=0, on_error="stop")
    def bill(event):
        if event["aggregateVersion"] == 1:
            raise ValueError("no price")

    lend("emma", "BookBought", "BookLent")
    with running("bills"):
        until(lambda: (checkpoint(store, "bills") or {}).get("stopped"))


@pytest.fixture
def event_types(monkeypatch, quick):
    """Two event types, of which one has a name that no page may run."""
    # Appends know none of them: these tests store what the classes refuse.
    monkeypatch.setattr(declaration, "declarations", Declarations())

    @event("BookLent", version=2, aliases=["book_lent"])
    @dataclasses.dataclass
    class BookLent:
        """A book was lent. <b>"""

        title: str = "<i>"
        days: int | None = None

    @upcaster("BookLent", 1, into={MARKUP: 1})
    def with_days(payload):
        return payload

    event(MARKUP)(dataclasses.make_dataclass("Evil", []))
    subscription("mails", types=["BookLent"])(print)
