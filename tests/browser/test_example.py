"""
The example project with the real log of loan applications, as a person uses it.

The log is not part of the repository: it lies beside it, and without it these tests are
skipped. ``dev.py pictures`` takes the screenshots of the documentation here.
"""

import gzip
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from tests.browser.accessibility import axe
from tests.browser.keyboard import press_until_focused, press_when_loaded
from tests.support.processes import serving
from tests.support.servers import until
from tests.test_real_log import EVENTS, LOG, STREAMS

EXAMPLE = Path(__file__).resolve().parents[2] / "example_project"
# One of the three applications whose ids begin like this.
APPLICATION, BEGINNING = "loan-203504", "loan-20350"
# The screenshots of the documentation: a page, and its variant.
PICTURES = {
    ("streams", "light"),
    ("stream", "light"),
    ("stream", "dark"),
    ("stream", "narrow"),
    ("event", "light"),
    ("overview", "light"),
}
IS_TOO_WIDE = "document.documentElement.scrollWidth > window.innerWidth"

pytestmark = [
    pytest.mark.skipif(
        not LOG.exists(), reason=f"{LOG.name} is not beside the repository"
    ),
]


@pytest.fixture(scope="module")
def log():
    """The events of every application, in the order of their versions."""
    streams = {}
    with gzip.open(LOG, "rt") as file:
        for line in file:
            event = json.loads(line)
            streams.setdefault(event["aggregateId"], []).append(event)
    for stream in streams.values():
        stream.sort(key=lambda event: event["aggregateVersion"])
    assert len(streams) == STREAMS
    return streams


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example's server and its MongoDB, with the log imported by its commands."""
    folder = tmp_path_factory.mktemp("example")
    project = folder / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns(".data"))
    manage = str(project / "manage.py")
    environment = {
        "DJANGO_SETTINGS_MODULE": "loans_site.settings",
        "PYTHONPATH": str(EXAMPLE.parent),
    }
    command = (manage, "demo", "127.0.0.1:{port}")
    with serving(folder, *command, **environment) as (printed, answer):
        until(answer, 60)
        for command in (["import_events", str(LOG)], ["rebuild_aggregates"]):
            done = subprocess.run(
                [sys.executable, manage, *command],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | environment,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"{EVENTS // 1000}," in done.stdout
        address = re.search(r"http://127\.0\.0\.1:\d+", printed())[0]
        yield SimpleNamespace(url=address)


@pytest.fixture
def page(page):
    # Every browser asks for an icon, which the example does not have.
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    return page


@pytest.fixture
def inspected(page, shot, variant):
    """Return a function that checks a page for accessibility and width, with a shot."""

    def inspected(name):
        assert [str(violation) for violation in axe(page, "#content")] == [], name
        assert not page.evaluate(IS_TOO_WIDE), name
        folder = os.environ.get("PICTURES") if (name, variant) in PICTURES else None
        shot(page, f"admin-{name}", full_page=False, folder=folder)

    return inspected


def state_in(download):
    """Read a downloaded state, with its times in the format of the log."""

    def plain(found):
        return found["$date"] if set(found) == {"$date"} else found

    return json.loads(download.value.path().read_text(), object_hook=plain)


def fold(events):
    """Fold events with the reducer of the example, without the store."""
    path = EXAMPLE / "loans" / "aggregate.py"
    spec = importlib.util.spec_from_file_location("loans_aggregate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LoanApplication.view(events, {})


def at_version(page, version):
    heading = page.get_by_role("heading", name=f"As of version {version}", exact=True)
    expect(heading).to_be_visible()
    # The script with the arrow keys has loaded as well.
    page.wait_for_load_state("load")


@pytest.mark.parametrize("page", ["light", "dark", "narrow"], indirect=True)
def test_a_person_finds_out_what_happened_to_an_application(page, inspected, log):
    events = log[APPLICATION]
    last = len(events)
    page.goto("/admin/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("admin")
    page.get_by_role("button", name="Log in").click()
    page.locator("#content").get_by_role("link", name="Streams").click()
    inspected("streams")

    page.get_by_label("Stream", exact=True).fill(BEGINNING)
    page.get_by_role("button", name="Search").click()
    alike = sorted(name for name in log if name.startswith(BEGINNING))
    expect(page.locator(".es-table tbody th")).to_have_text(alike)
    inspected("search")
    page.get_by_role("link", name=APPLICATION).click()
    at_version(page, last)

    for version in (last - 1, last - 2, last - 3):
        page.get_by_role("link", name="Previous").click()
        at_version(page, version)
    inspected("stream")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the full state").click()
    assert state_in(download) == fold(events[: last - 3])

    moment = events[9]["created"]
    page.locator("#es-when").fill(moment[:19])
    page.get_by_role("button", name="Go").click()
    as_of = [event for event in events if event["created"][:19] <= moment[:19]]
    at_version(page, len(as_of))

    page.locator(".es-timeline .es-selected a").nth(1).click()
    expect(page.get_by_role("heading", name="As stored")).to_be_visible()
    expect(page.locator(".es-json")).to_contain_text(as_of[-1]["type"])
    inspected("event")
    page.go_back()

    page.get_by_role("button", name="Rebuild the snapshot").click()
    expect(page.locator(".messagelist")).to_contain_text(f"at version {last}")
    expect(page.get_by_text("same state")).to_be_visible()
    inspected("rebuilt")

    with page.expect_download() as download:
        page.get_by_role("link", name="Download as JSON lines").click()
    lines = download.value.path().read_text().splitlines()
    exported = [json.loads(line) for line in lines]
    assert [event["payload"] for event in exported] == [e["payload"] for e in events]

    page.goto("/admin/ossy_event_store/event/")
    inspected("events")
    page.goto("/admin/ossy_event_store/stream/overview/")
    expect(page.locator(".es-table tbody").first).to_contain_text("LoanApplication")
    inspected("overview")


def test_the_keyboard_alone_is_enough(page, log):
    events = log[APPLICATION]
    last = len(events)
    page.goto("/admin/")
    press_until_focused(page, "#id_username")
    page.keyboard.type("admin")
    press_until_focused(page, "#id_password")
    page.keyboard.type("admin")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Site administration")).to_be_visible()
    press_until_focused(page, "#content a >> text=Streams")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Streams")
    press_until_focused(page, "#es-q")
    page.keyboard.type(BEGINNING)
    page.keyboard.press("Enter")
    expect(page.locator(".es-table tbody th")).to_have_count(3)
    press_until_focused(page, f'.es-table th a:has-text("{APPLICATION}")')
    page.keyboard.press("Enter")
    at_version(page, last)
    for version in (last - 1, last - 2):
        press_when_loaded(page, "ArrowLeft")
        at_version(page, version)
    press_when_loaded(page, "ArrowRight")
    at_version(page, last - 1)

    press_until_focused(page, ".es-timeline .es-selected div a >> nth=0")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="As stored")).to_be_visible()
    page.go_back()
    at_version(page, last - 1)
    press_until_focused(page, "text=Rebuild the snapshot")
    page.keyboard.press("Enter")
    expect(page.locator(".messagelist")).to_contain_text(f"at version {last}")
    press_until_focused(page, "text=Download as JSON lines")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == last
