"""The admin as a test sees it: its URLs, its users, and the text of a page."""

import re

import pytest
from django.conf import settings
from django.urls import reverse

APP = "ossy_event_store"
ALL = ("view_stream", "view_event", "view_snapshot", "rebuild_snapshot")

NOT_ON_DJONGO = pytest.mark.skipif(
    settings.STORE == "djongo", reason="djongo cannot store the users"
)


def url(model, page="changelist", *args):
    return reverse(f"admin:{APP}_{model}_{page}", args=args)


def text_of(response):
    """Return the text of the main part of a page, in one line."""
    assert response.status_code == 200, response.status_code
    html = response.content.decode()
    body = html[html.index('id="main"') :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))
