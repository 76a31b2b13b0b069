"""The example project, as a person uses it: in a process of its own."""

import http.cookiejar
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from django.conf import settings

from tests.support.processes import ON_URL, serving
from tests.support.servers import until

EXAMPLE = Path(__file__).resolve().parents[1] / "example_project"

pytestmark = [pytest.mark.docs, ON_URL]


class Browser:
    """Just enough of one: cookies, links and forms with their CSRF token."""

    def __init__(self, root):
        self.root = root
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(jar)

    def get(self, path):
        with self.opener.open(self.root + path) as page:
            self.url = page.url
            return page.read().decode()

    def post(self, path, page, **fields):
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
        data = urllib.parse.urlencode({"csrfmiddlewaretoken": token, **fields})
        with self.opener.open(self.root + path, data.encode()) as answer:
            self.url = answer.url
            return answer.read().decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory, _store_ready):
    """The example's server, with its demo data, in a database of its own."""
    folder = tmp_path_factory.mktemp("example")
    environment = {
        "DB_URL": settings.SERVER,
        "DB_NAME": f"example_{os.getpid()}",
        "DJANGO_SETTINGS_MODULE": "loans_site.settings",
        "PYTHONPATH": str(EXAMPLE.parent),
    }
    command = (str(EXAMPLE / "manage.py"), "demo", "127.0.0.1:{port}")
    with serving(folder, *command, **environment) as (log, answer):
        until(answer, 60)
        address = re.search(r"http://127\.0\.0\.1:\d+", log())[0]
        yield Browser(address), log, environment


def test_it_prints_the_address_and_the_login(site):
    _, log, _ = site
    text = log()
    assert re.search(r"http://127\.0\.0\.1:\d+/admin/", text)
    assert re.search(r"admin", text)
    assert "134 events were stored" in text or "134 already existed" in text


def test_a_person_applies_for_a_loan_and_withdraws(site):
    browser, _, _ = site
    form = browser.get("/apply/")
    page = browser.post("/apply/", form, applicant="Jane <b>", amount="12000")
    assert "Jane &lt;b&gt;" in page
    path = urllib.parse.urlsplit(browser.url).path
    page = browser.post(f"{path}withdraw/", page)
    assert "cancelled" in page.lower()
    again = browser.get(path)
    assert f"{path}withdraw/" not in again


def test_an_amount_out_of_bounds_is_refused_on_the_form(site):
    browser, _, _ = site
    page = browser.post("/apply/", browser.get("/apply/"), applicant="Jane", amount="1")
    assert browser.url.endswith("/apply/")
    assert "500" in page


def test_applications_are_found_by_prefix_and_shown_with_their_history(site):
    browser, _, _ = site
    page = browser.get("/?q=demo-0003")
    assert "demo-0003" in page
    assert "demo-0004" not in page
    history = browser.get("/applications/demo-0003/")
    assert history.count("<time") >= 3


def test_an_unknown_application_is_not_found(site):
    browser, _, _ = site
    with pytest.raises(urllib.error.HTTPError) as error:
        browser.get("/applications/nowhere/")
    assert error.value.code == 404
    error.value.close()


def test_the_admin_lets_the_superuser_in(site):
    browser, _, _ = site
    form = browser.get("/admin/login/?next=/admin/")
    page = browser.post(
        "/admin/login/?next=/admin/", form, username="admin", password="admin"
    )
    assert "Log out" in page
    # From now on, what the person does says who did it, without a line in the views.
    form = browser.get("/apply/")
    page = browser.post("/apply/", form, applicant="Jane", amount="12000")
    assert "by admin" in page


def test_a_command_beside_the_server_exports_its_events(site):
    _, _, environment = site
    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLE / "manage.py"),
            "export_events",
            "--id",
            "demo-0001",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["aggregateVersion"] for e in events] == list(range(1, len(events) + 1))
