"""Checks of the outbox: its app and its table."""

import sys

import pytest
from django.apps import apps

from ossy_event_store.checks import check_outbox_app, check_outbox_tables
from ossy_event_store.checks.outbox import PUBLIC
from ossy_event_store.relational import outbox
from tests.support.checks import ids
from tests.support.relational import SQL

pytestmark = pytest.mark.versions


def test_e006_a_project_that_imports_the_function_without_its_app(monkeypatch):
    monkeypatch.setitem(sys.modules, PUBLIC, object())
    monkeypatch.setattr(apps, "is_installed", lambda name: False)
    (message,) = check_outbox_app(None)
    assert ids([message]) == ["E006"]
    assert "'ossy_event_store.relational'" in message.hint


def test_e006_is_not_reported_with_the_app_or_without_the_import(monkeypatch):
    monkeypatch.setitem(sys.modules, PUBLIC, object())
    monkeypatch.setattr(apps, "is_installed", lambda name: True)
    assert check_outbox_app(None) == []
    monkeypatch.setattr(apps, "is_installed", lambda name: False)
    monkeypatch.delitem(sys.modules, PUBLIC)
    assert check_outbox_app(None) == []


def test_w019_a_database_without_the_table(sql, monkeypatch):
    assert check_outbox_tables(None, [SQL]) == []
    monkeypatch.setattr(outbox, "has_table", lambda using: False)
    (message,) = check_outbox_tables(None, [SQL])
    assert ids([message]) == ["W019"]
    assert "migrate --database sql" in message.hint
    assert check_outbox_tables(None, ["default"]) == []
    assert check_outbox_tables(None) == []
    monkeypatch.setattr(sys, "argv", ["manage.py", "migrate"])
    assert check_outbox_tables(None, [SQL]) == []


def test_a_database_that_is_away_gets_no_warning(sql, monkeypatch):
    def fail(using):
        raise outbox.Error("refused")

    monkeypatch.setattr(outbox, "has_table", fail)
    assert check_outbox_tables(None, [SQL]) == []
