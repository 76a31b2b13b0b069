"""
A real browser on a real server: Chromium, driven by Playwright.

Playwright's blocking interface runs an event loop in the thread of the tests, where
Django's database and the event store refuse to block. They do not use that loop, so
``DJANGO_ALLOW_ASYNC_UNSAFE`` is safe while the browser is open. It changes nothing for
the server, whose threads have no loop.
"""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.test import Client

from tests.browser.chromium import DESKTOP, TIMEOUT_MS, VARIANTS, executable
from tests.browser.troubles import Troubles

if settings.SETTINGS_MODULE != "tests.browser.settings":
    # All other tests run without a browser and without Playwright.
    collect_ignore_glob = ["test_*.py"]


# --- the browser ------------------------------------------------------------


@pytest.fixture(scope="package")
def chromium():
    """One browser for all tests; each test opens contexts of its own."""
    path = executable()
    # Imported here, because every test run reads this file.
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=path, timeout=TIMEOUT_MS)
        yield browser
        browser.close()


@pytest.fixture
def troubles():
    return Troubles()


@pytest.fixture
def open_page(site, chromium, troubles):
    """
    Open a page in a new context, with the options of Playwright's ``new_context``.

    The test fails at its end if the browser complained unexpectedly.
    """
    with ExitStack() as stack:

        def open_page(**options):
            options = DESKTOP | {"base_url": site.url} | options
            context = stack.enter_context(chromium.new_context(**options))
            stack.callback(troubles.settle, context)
            context.set_default_timeout(TIMEOUT_MS)
            troubles.watch(context)
            return context.new_page()

        yield open_page


@pytest.fixture
def variant(request):
    """The name of the page's variant: parametrize ``page`` with ``indirect=True``."""
    callspec = getattr(request.node, "callspec", None)
    return callspec.params.get("page", "light") if callspec else "light"


@pytest.fixture
def page(open_page, variant):
    return open_page(**VARIANTS[variant])


@pytest.fixture
def shot(variant):
    """Return a function that saves a picture of a page in SCREENSHOTS, or a folder."""

    def shot(page, name, full_page=True, folder=None):
        # A picture takes as long as opening the page.
        if folder := folder or os.environ.get("SCREENSHOTS"):
            path = Path(folder, f"{name}-{variant}.png")
            page.screenshot(path=path, full_page=full_page)

    return shot


# --- the site ---------------------------------------------------------------


@pytest.fixture
def site(live_server, store):
    """The running server, with an empty event store and no users."""
    return live_server


@pytest.fixture
def superuser(site):
    return User.objects.create_superuser("root", password="root")


@pytest.fixture
def staff(site):
    """Return a function that creates a staff user with some permissions."""

    def staff(*permissions, username="clerk"):
        user = User.objects.create_user(username, password=username, is_staff=True)
        for permission in permissions:
            app, codename = permission.split(".")
            found = Permission.objects.get(
                content_type__app_label=app, codename=codename
            )
            user.user_permissions.add(found)
        return user

    return staff


@pytest.fixture
def log_in(site):
    """Return a function that logs a user in without the form."""

    def log_in(page, user):
        client = Client()
        client.force_login(user)
        session = client.cookies[settings.SESSION_COOKIE_NAME]
        cookie = {"name": session.key, "value": session.value, "url": site.url}
        page.context.add_cookies([cookie])

    return log_in
