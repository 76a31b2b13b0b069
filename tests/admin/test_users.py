"""What a user did, on the user's own page."""

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import event_context
from ossy_event_store.admin import UserEventsMixin
from ossy_event_store.mongodb import connection
from tests.support.admin import NOT_ON_DJONGO, url

pytestmark = [pytest.mark.versions, pytest.mark.django_db, NOT_ON_DJONGO]


@pytest.fixture
def page(rf):
    """Return the page of a user, as another one sees it."""

    class Users(UserEventsMixin, UserAdmin):
        pass

    own = AdminSite(name="own")
    own.register(User, Users)

    def page(viewer, subject):
        request = rf.get("/")
        request.user = viewer
        response = own._registry[User].change_view(request, str(subject.pk))
        return response.render().content.decode()

    return page


@pytest.fixture
def ann():
    return User.objects.create_user("ann & <b>")


@pytest.fixture
def root():
    return User.objects.create_superuser("root")


def test_a_user_s_page_lists_what_the_user_did(page, root, ann, lend, client):
    with event_context(createdBy=ann.username):
        lend("emma", *["BookLent"] * 12)
    with event_context(createdBy="ann"):
        lend("other", "BookBought")
    shown = page(root, ann)
    assert shown.count("BookLent</bdi></a>") == 10
    assert "BookBought" not in shown
    address = f"{url('event')}?by=ann+%26+%3Cb%3E"
    assert address in shown
    client.force_login(root)
    assert len(client.get(address).context["rows"]) == 12
    assert "has appended no event" in page(root, root)


def test_only_who_may_see_events_sees_them(page, root, ann, lend):
    with event_context(createdBy="root"):
        lend("emma", "BookLent")
    ann.user_permissions.set(Permission.objects.filter(codename="view_user"))
    assert "Events of this user" not in page(ann, root)
    ann.user_permissions.add(Permission.objects.get(codename="view_event"))
    assert "BookLent" in page(User.objects.get(pk=ann.pk), root)


def test_the_events_are_found_by_what_the_setting_names(page, root, lend, settings):
    own = {**settings.OSSY_EVENT_STORE, "CONTEXT": {"USER": "pk"}}
    settings.OSSY_EVENT_STORE = own
    with event_context(createdBy=str(root.pk)):
        lend("emma", "BookLent")
    assert "BookLent" in page(root, root)
    settings.OSSY_EVENT_STORE = {**own, "CONTEXT": {"USER": None}}
    assert "Events of this user" not in page(root, root)


def test_the_page_says_that_the_store_cannot_be_read(page, root, monkeypatch, store):
    def misconfigured():
        raise ImproperlyConfigured("no URL")

    monkeypatch.setattr(connection, "blocking", misconfigured)
    assert "events of this user are not available" in page(root, root)
