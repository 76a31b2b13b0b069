"""The checks of a deployment: an embedded server, and connections without TLS."""

import pytest

from ossy_event_store.checks import check_deployment, check_server
from tests.support.checks import DEFAULT, ids

pytestmark = pytest.mark.versions


def deployed(settings, url, **value):
    settings.OSSY_EVENT_STORE = {"URL": url, **value}
    return check_deployment(None)


@pytest.mark.parametrize("url", ["embedded://", "embedded://some/folder"])
def test_w006_the_embedded_server(settings, url):
    assert ids(deployed(settings, url)) == ["W006"]


def test_w007_names_the_hosts_without_tls(settings):
    (message,) = deployed(settings, "mongodb://ann:pw@one.example,two.example/x")
    assert ids([message]) == ["W007"]
    assert "Events travel to one.example, two.example without" in message.msg


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("mongodb://10.0.0.1/x", ["W007"]),
        ("mongodb://[2001:db8::1]:27017/x", ["W007"]),
        ("mongodb://localhost,10.0.0.1/x", ["W007"]),
        ("mongodb://10.0.0.1/x?tls=false", ["W007"]),
        ("mongodb+srv://db.example.com/x?tls=false", ["W007"]),
        ("mongodb+srv://db.example.com/x?ssl=false", ["W007"]),
        ("mongodb://localhost.example.com/x", ["W007"]),
        ("mongodb://10.0.0.1/x?tls=true", []),
        ("mongodb://10.0.0.1/x?ssl=true", []),
        ("mongodb://10.0.0.1/x?TLS=TRUE", []),
        ("mongodb+srv://db.example.com/x", []),
        ("mongodb://localhost/x", []),
        ("mongodb://LOCALHOST/x", []),
        ("mongodb://127.0.0.1,127.8.8.8/x", []),
        ("mongodb://[::1]:27017/x", []),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/x", []),
    ],
)
def test_w007_a_remote_server_without_tls(settings, url, found):
    assert ids(deployed(settings, url)) == found


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"tls": True}, []),
        ({"ssl": True}, []),
        ({"TLS": True}, []),
        ({"tls": False}, ["W007"]),
    ],
    ids=str,
)
def test_w007_respects_the_options(settings, options, found):
    assert ids(deployed(settings, "mongodb://10.0.0.1/x", OPTIONS=options)) == found


@pytest.mark.parametrize(
    "url", ["mongodb://10.0.0.1/x?tls=true", "mongodb+srv://db.example.com/x"]
)
def test_w007_lets_the_options_override_the_url(settings, url):
    assert ids(deployed(settings, url, OPTIONS={"tls": False})) == ["W007"]


@pytest.mark.parametrize(
    ("database", "found"),
    [
        ({"HOST": "mongodb://10.0.0.1"}, ["W007"]),
        ({"HOST": "10.0.0.1"}, ["W007"]),
        ({"HOST": "mongodb://10.0.0.1/?tls=true"}, []),
        ({"HOST": "mongodb://10.0.0.1", "OPTIONS": {"tls": True}}, []),
        ({"HOST": "mongodb+srv://db.example.com"}, []),
        ({"HOST": "127.0.0.1"}, []),
        ({}, []),
    ],
    ids=str,
)
def test_w007_respects_an_alias(settings, alias, database, found):
    alias("django_mongodb_backend", **database)
    settings.OSSY_EVENT_STORE = {"DATABASE": "events"}
    assert ids(check_deployment(None)) == found


def test_w007_respects_the_client_of_djongo(settings, alias):
    alias("djongo", CLIENT={"host": "mongodb://10.0.0.1"})
    settings.OSSY_EVENT_STORE = {"DATABASE": "events"}
    assert ids(check_deployment(None)) == ["W007"]


@pytest.mark.parametrize("value", [{}, {"URI": 1}, {"URL": "x"}, None])
@pytest.mark.parametrize("check", [check_deployment, check_server])
def test_invalid_settings_are_reported_only_once(settings, value, check):
    settings.OSSY_EVENT_STORE = value
    assert check(None, databases=DEFAULT) == []
