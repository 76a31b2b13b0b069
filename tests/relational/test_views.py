"""Views that need no transaction."""

import asyncio

import pytest
from django.db import connections
from django.test import AsyncClient

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("store")]

PAGES = {
    "monitoring_site": ("/health", "/health/store", "/metrics"),
    "push_site": ("/all/?after=0",),
}


@pytest.mark.parametrize("site", PAGES)
def test_the_views_respond_on_a_site_with_atomic_requests(site, settings, monkeypatch):
    settings.ROOT_URLCONF = f"tests.support.{site}"
    settings.OSSY_EVENT_STORE = {
        **settings.OSSY_EVENT_STORE,
        "HEALTH": {"RUNNING": False},
    }
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)

    async def statuses():
        client = AsyncClient(raise_request_exception=False)
        responses = [await client.get(page) for page in PAGES[site]]
        for response in responses:
            response.close()
        return [response.status_code for response in responses]

    assert set(asyncio.run(statuses())) == {200}
