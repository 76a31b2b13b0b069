"""When Django runs the checks."""

import pytest
from django.core import checks as django_checks
from django.core.management import call_command

from ossy_event_store.checks import (
    check_deployment,
    check_server,
    check_settings,
    server,
)
from tests.support.checks import DEFAULT

pytestmark = pytest.mark.versions


def test_the_checks_are_registered():
    registered = django_checks.registry.registry
    assert check_settings in registered.registered_checks
    assert check_server in registered.registered_checks
    assert check_deployment in registered.deployment_checks


def test_check_with_a_database_asks_the_server(store, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(server, "_shortcomings", lambda: asked.append(1) or [])
    call_command("check", databases=DEFAULT)
    assert asked == [1]


def test_a_plain_check_does_not_ask_the_server(monkeypatch, capsys):
    monkeypatch.setattr(server, "_shortcomings", lambda: pytest.fail("asked"))
    call_command("check")
