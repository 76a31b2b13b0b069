"""The history of a stream on the page of a project's own model."""

import pytest
from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User

from ossy_event_store.admin import StreamAdmin, StreamHistoryMixin
from ossy_event_store.models import Stream
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
