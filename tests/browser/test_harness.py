"""The harness itself, on Django's own pages and on pages with faults."""

import os
import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import expect

from ossy_event_store import EventStore
from tests.browser.accessibility import axe
from tests.browser.chromium import VARIANTS, executable
from tests.browser.keyboard import press_until_focused

in_every_variant = pytest.mark.parametrize("page", VARIANTS, indirect=True)

USERS = "/admin/auth/user/"


# --- the site ---------------------------------------------------------------


@in_every_variant
def test_a_person_logs_in_with_the_form(page, superuser, shot):
    page.goto("/admin/")
    shot(page, "login")
    # Only the contents: Django's page lacks a heading that axe would report.
    assert axe(page, "#content") == []
    # These names are the same in every language.
    page.locator("[name=username]").fill("root")
    page.locator("[name=password]").fill("root")
    page.locator("[type=submit]").click()
    expect(page.locator("body.dashboard")).to_be_visible()
    shot(page, "index")
    assert axe(page, "#content") == []


def test_every_page_of_the_admin_works_under_the_policy(page, superuser, log_in):
    log_in(page, superuser)
    own = f"{USERS}{superuser.pk}"
    for path in ("/admin/", USERS, f"{USERS}add/", f"{own}/change/", f"{own}/history/"):
        answer = page.goto(path)
        assert answer.ok
        assert answer.headers["content-security-policy"] == "default-src 'self'"


def test_staff_may_do_only_what_is_permitted(page, staff, log_in, troubles):
    log_in(page, staff("auth.view_user"))
    page.goto(USERS)
    expect(page.locator("#result_list")).to_contain_text("clerk")
    with troubles.expected(page, "403"):
        page.goto(f"{USERS}add/")


def test_each_context_has_its_own_session(page, open_page, superuser, log_in):
    log_in(page, superuser)
    other = open_page()
    for each in (page, other):
        each.goto("/admin/")
    expect(page.locator("#user-tools")).to_contain_text("root")
    expect(other.get_by_role("button", name="Log in")).to_be_visible()


def test_a_test_can_use_the_database_and_the_store_while_a_page_is_open(page, lend):
    page.goto("/admin/")
    assert not User.objects.exists()
    lend("b1", "BookBought", "BookLent")
    assert len(EventStore.get_event_stream("b1")) == 2


# --- the variants -----------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("light", "(prefers-color-scheme: light)"),
        ("dark", "(prefers-color-scheme: dark)"),
        ("narrow", "(width: 390px)"),
    ],
    indirect=["page"],
)
def test_a_variant_reaches_the_page(page, query):
    page.goto("/admin/")
    assert page.evaluate("query => matchMedia(query).matches", query)


def test_nothing_moves_which_people_who_ask_for_less_motion_would_see():
    """With an animation, the pages need a variant for ``prefers-reduced-motion``."""
    root = Path(__file__).resolve().parents[2]
    files = [
        file
        for part in ("ossy_event_store", "example_project")
        for kind in ("css", "js", "html")
        for file in (root / part).rglob(f"*.{kind}")
    ]
    assert len(files) > 10
    moving = re.compile("transition|animat|@keyframes|<marquee|scroll-behavior")
    assert [file for file in files if moving.search(file.read_text())] == []


@pytest.mark.parametrize("page", ["narrow"], indirect=True)
def test_a_shot_is_a_picture_named_after_the_variant(page, shot, tmp_path, monkeypatch):
    monkeypatch.setenv("SCREENSHOTS", str(tmp_path))
    page.goto("/admin/")
    shot(page, "login")
    picture = (tmp_path / "login-narrow.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert int.from_bytes(picture[16:20]) == 390


# --- faults that are found --------------------------------------------------


def test_axe_finds_an_image_without_a_text(page):
    page.goto("/wrong/image-without-alt/")
    [violation] = axe(page)
    assert (violation.rule, violation.impact) == ("image-alt", "critical")
    assert "search.svg" in violation.nodes[0]
    assert "image-alt (critical)" in str(violation)


def test_axe_ignores_excluded_elements(page):
    page.goto("/wrong/image-without-alt/")
    assert axe(page, exclude=["img"]) == []
    assert axe(page, "h1") == []


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("inline-script", "inline script violates .* Content Security Policy"),
        ("inline-style", "inline style violates .* Content Security Policy"),
        ("foreign-image", "foreign.invalid.* Content Security Policy"),
        ("missing-script", "404.*nowhere.js"),
        ("throwing-script", "thrown"),
    ],
)
def test_a_complaint_of_the_browser_is_an_error(page, troubles, name, complaint):
    page.goto(f"/wrong/{name}/")
    with pytest.raises(AssertionError, match=complaint):
        troubles.settle(page.context)


def test_only_expected_complaints_are_ignored(page, troubles):
    with troubles.expected(page, "inline script"):
        page.goto("/wrong/inline-script/")
    assert troubles == []
    page.goto("/wrong/throwing-script/")
    with troubles.expected(page, "404"):
        page.goto("/wrong/missing-script/")
    with pytest.raises(AssertionError, match="thrown"):
        troubles.settle(page.context)


# --- the keyboard -----------------------------------------------------------


def test_tab_leads_from_the_name_to_the_button(page):
    page.goto("/admin/")
    expect(page.get_by_label("Username")).to_be_focused()
    focused = press_until_focused(page, "[type=submit]")
    assert ['id="id_password"' in tag for tag in focused] == [True, False]
    assert 'type="submit"' in focused[-1]


def test_an_element_that_tab_does_not_reach_is_an_error(page):
    page.goto("/admin/")
    with pytest.raises(AssertionError, match="5 times Tab did not focus #login-form"):
        press_until_focused(page, "#login-form", most=5)


# --- without a browser ------------------------------------------------------


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_without_chromium_tests_are_skipped_but_fail_on_ci(ci, outcome, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="Chromium is missing"):
        executable()
