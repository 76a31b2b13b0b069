"""The example's page of an application, which updates itself."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings
from playwright.sync_api import expect

from tests.browser.accessibility import axe
from tests.support.processes import serving
from tests.support.servers import until

EXAMPLE = Path(__file__).resolve().parents[2] / "example_project"
OPEN = "demo-0002"

APPEND = """
from ossy_event_store import Aggregate
from loans.aggregate import LoanApplication
Aggregate.of(LoanApplication, {id!r}).add({event!r})
"""


@pytest.fixture(scope="module")
def environment(_store_ready):
    return {
        "DB_URL": settings.SERVER,
        "DB_NAME": f"push_{os.getpid()}",
        "DJANGO_SETTINGS_MODULE": "loans_site.settings",
        "PYTHONPATH": str(EXAMPLE.parent),
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory, environment):
    """The example project, served by its own command."""
    folder = tmp_path_factory.mktemp("push")
    command = (str(EXAMPLE / "manage.py"), "demo", "127.0.0.1:{port}")
    with serving(folder, *command, **environment) as (printed, answer):
        until(answer, 60)
        address = re.search(r"http://127\.0\.0\.1:\d+", printed())[0]
        yield SimpleNamespace(url=address)


@pytest.fixture
def append(environment):
    """Return a function that appends an event in another process."""

    def append(aggregate_id, kind, **payload):
        event = {"type": kind, "payload": payload, "createdBy": "another clerk"}
        code = APPEND.format(id=aggregate_id, event=event)
        command = [sys.executable, str(EXAMPLE / "manage.py"), "shell", "-c", code]
        subprocess.run(command, check=True, env=os.environ | environment)

    return append


def test_the_page_of_an_application_updates_itself(page, append, shot):
    page.goto("/applications/demo-0012/")
    page.evaluate("window.isTheSame = true")
    events = page.locator(".timeline li")
    expect(events).to_have_count(4)
    append("demo-0012", "A_ACCEPTED")
    expect(events).to_have_count(5)
    expect(events.last).to_contain_text("Application: accepted for review")
    expect(events.last).to_contain_text("by another clerk")
    expect(page.locator("dl")).to_contain_text("Accepted for review")
    expect(page.get_by_text("5 events, oldest first")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text(
        "This page was updated. Application: accepted for review"
    )
    append("demo-0011", "A_ACCEPTED")  # another application
    append("demo-0012", "O_CREATED")
    expect(events).to_have_count(6)
    assert page.evaluate("window.isTheSame")
    assert axe(page) == []
    shot(page, "push-updated")


def test_the_desk_shows_the_work_of_the_day_live(page, append, shot):
    page.goto("/desk/")
    page.evaluate("window.isTheSame = true")
    clerks, days = page.locator("#live-clerks"), page.locator("#live-days")
    expect(days.locator("tbody tr")).not_to_have_count(0)
    expect(clerks.get_by_role("row", name="another clerk")).to_have_count(0)
    append("demo-0011", "W_Afhandelen leads", lifecycle="COMPLETE")
    row = clerks.get_by_role("row", name="another clerk")
    expect(row.locator("td").first).to_have_text("1")
    expect(row).to_contain_text("Handle the lead")
    append("demo-0011", "A_APPROVED")  # nobody else approves today
    approved = days.locator("tbody tr").first.locator("td").nth(4)
    expect(approved).to_have_text("1")
    append("demo-0011", "A_APPROVED")
    expect(approved).to_have_text("2")
    expect(page.get_by_role("status")).to_contain_text("This page was updated.")
    assert page.evaluate("window.isTheSame")
    assert axe(page) == []
    shot(page, "desk")


def test_the_focus_stays_or_moves_to_the_heading(page, append, shot):
    page.goto("/applications/demo-0014/")
    button = page.get_by_role("button", name="Withdraw")
    button.focus()
    append("demo-0014", "O_CREATED")
    expect(page.locator(".timeline li")).to_have_count(4)
    expect(button).to_be_focused()
    append("demo-0014", "A_DECLINED")
    expect(button).to_have_count(0)
    expect(page.locator("h1")).to_be_focused()
    expect(page.locator("h1 .badge")).to_have_text("declined")
    shot(page, "push-decided")


def test_an_event_appended_before_the_page_listens_is_shown(page, append):
    # Hold back the stream of events until an event has been appended.
    def late(route):
        append("demo-0007", "O_ACCEPTED")
        route.continue_()

    page.route("**/events/*", late)
    page.goto("/applications/demo-0007/")
    expect(page.locator(".timeline li")).to_have_count(14)


def test_a_page_works_without_scripts(open_page):
    page = open_page(java_script_enabled=False)
    page.goto("/applications/demo-0001/")
    expect(page.locator(".timeline li")).to_have_count(22)
