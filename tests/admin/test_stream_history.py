"""The history of a stream on the page of a project's own model."""

import pytest
from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, Template
from pymongo.errors import OperationFailure

from ossy_event_store.admin import StreamAdmin, StreamHistoryMixin
from ossy_event_store.models import Stream
from ossy_event_store.mongodb import connection
from tests.support.admin import NOT_ON_DJONGO, url

pytestmark = [pytest.mark.versions, pytest.mark.django_db, NOT_ON_DJONGO]


@pytest.fixture
def own_site():
    """An admin site of users, each with the stream of their name as its history."""

    class UserAdmin(StreamHistoryMixin, ModelAdmin):
        def stream_id(self, user):
            return f"user-{user.username}"

    own = AdminSite(name="own")
    own.register(User, UserAdmin)
    own.register(Stream, StreamAdmin)
    return own


def own_page(own_site, rf, user, subject):
    request = rf.get("/")
    request.user = user
    response = own_site._registry[User].change_view(request, str(subject.pk))
    return response.render().content.decode()


def test_the_page_of_a_model_shows_the_history_of_its_stream(own_site, rf, lend):
    root = User.objects.create_superuser("root")
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_user"))
    lend("user-root", *["BookLent"] * 12, "BookReturned")
    page = own_page(own_site, rf, root, root)
    assert "BookReturned" in page
    assert page.count("BookLent") == 9
    assert url("stream", "change", quote("user-root")) in page
    assert "es-history" not in own_page(own_site, rf, root, clerk)
    assert "es-history" not in own_page(own_site, rf, clerk, root)


def history_of(rf, stream):
    request = rf.get("/")
    request.user = User(is_superuser=True, is_active=True)
    context = Context({"request": request, "stream": stream})
    text = "{% load ossy_event_store %}{% stream_history stream %}"
    return Template(text).render(context)


def test_the_tag_shows_a_stored_event_whatever_it_lacks(rf, history):
    history.insert_one({"_id": 1, "aggregateId": "odd", "aggregateVersion": 1})
    history.insert_one({"_id": 2, "aggregateId": "odd", "aggregateVersion": "2"})
    assert "es-history" in history_of(rf, "odd")


@pytest.mark.parametrize("stream", ["nobody", "", "a\x00b", "x" * 2000, None, 7])
def test_the_tag_shows_nothing_of_a_stream_that_does_not_exist(rf, store, stream):
    assert not history_of(rf, stream).strip()


def refuse():
    raise OperationFailure("not authorized", 13)


def misconfigured():
    raise ImproperlyConfigured("no URL")


@pytest.mark.parametrize("blocking", [refuse, misconfigured])
def test_the_tag_says_that_the_store_cannot_be_read(rf, monkeypatch, blocking, caplog):
    monkeypatch.setattr(connection, "blocking", blocking)
    assert "history is not available" in history_of(rf, "emma")
    assert "Cannot show the history of a stream" in caplog.text


def test_the_tag_shows_nothing_without_a_user(rf, lend):
    lend("emma", "BookBought")
    template = Template("{% load ossy_event_store %}{% stream_history 'emma' %}")
    for context in ({}, {"request": rf.get("/")}):
        assert not template.render(Context(context)).strip()
