"""The checks of the settings and of the declared subscriptions."""

import re

import pytest

from ossy_event_store.checks import check_settings, check_subscriptions
from ossy_event_store.subscriptions.checkpoints import RELATIONAL
from tests.support.checks import ONLY_URL, ids

pytestmark = pytest.mark.versions


def static(settings, **value):
    settings.OSSY_EVENT_STORE = value
    return check_settings(None)


def test_valid_settings_pass(settings):
    assert static(settings, URL="mongodb://127.0.0.1/x") == []


def test_the_settings_of_this_run_pass():
    assert check_settings(None) == []


def test_e001_an_unknown_key(settings):
    (message,) = static(settings, URI="mongodb://x")
    assert ids([message]) == ["E001"]
    assert message.msg == "OSSY_EVENT_STORE has no key 'URI'."
    assert message.hint == "Did you mean 'URL'?"


def test_e001_for_each_problem(settings):
    assert ids(static(settings, URI=1, TIMEOUT=0, OPTIONS=[])) == ["E001"] * 3


def test_e001_a_setting_that_is_not_a_dict(settings):
    settings.OSSY_EVENT_STORE = "mongodb://x"
    assert ids(check_settings(None)) == ["E001"]


def test_e002_no_setting_says_where_mongodb_is(settings):
    (message,) = static(settings)
    assert ids([message]) == ["E002"]
    assert "Mongo.connect(url)" in message.msg
    assert "DB_URL" in message.msg


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "127.0.0.1",
        "mongodb:/x",
        "mongodb://",
        "mongodb://a:b@c:d",
        "mongodb://a:p@ss@host/x",
        "mongodb://host:port/x",
        "mongodb://host:99999/x",
        "mongodb://host/x?tls=maybe",
        "mongodb://host/a b",
        "mongodb://host/a\\b",
        "mongodb+srv://",
        "mongodb+srv://a:p@ss@x.example.com/name",
        "mongodb+srv://one.example.com,two.example.com/name",
        "mongodb+srv://x.example.com:27017/name",
        "mongodb+srv://localhost/name",
    ],
)
def test_e002_an_invalid_url(settings, url):
    assert ids(static(settings, URL=url)) == ["E002"]


@pytest.mark.parametrize(
    ("name", "engine"),
    [("missing", None), ("events", "django.db.backends.sqlite3")],
)
def test_e002_an_invalid_alias(settings, alias, name, engine):
    alias(engine or "djongo")
    assert ids(static(settings, DATABASE=name)) == ["E002"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"tls": True, "tlsCAFile": "/nowhere/ca.pem"},
            "option tlsCAFile: .*(readable|No such file)",
        ),
        ({"w": 1, "maxPoolSize": "many"}, "option maxPoolSize: .*integer"),
        ({"maxPolSize": 1}, "not know .*mean maxpoolsize"),
    ],
)
def test_e002_an_invalid_option(settings, options, named):
    (message,) = static(settings, URL="mongodb://127.0.0.1", OPTIONS=options)
    assert ids([message]) == ["E002"]
    assert re.search(named, message.msg)


def test_options_that_go_together_are_not_refused(settings):
    options = {"username": "ann", "password": "x", "authSource": "admin", "tls": True}
    assert static(settings, URL="mongodb://127.0.0.1", OPTIONS=options) == []


def test_w001_two_settings(settings, alias):
    alias("djongo")
    (message,) = static(settings, URL="mongodb://127.0.0.1", DATABASE="events")
    assert ids([message]) == ["W001"]
    assert "URL is used" in message.msg


@pytest.mark.parametrize(
    ("database", "found"),
    [
        ({"HOST": "db.example.com"}, ["W002"]),
        ({"HOST": "x", "CLIENT": {}}, ["W002"]),
        ({"HOST": "x", "CLIENT": {"username": "ann"}}, ["W002"]),
        ({"HOST": "x", "CLIENT": {"host": "mongodb://x"}}, []),
        ({"CLIENT": {"host": "mongodb://x"}}, []),
        ({}, []),
        ({"HOST": ""}, []),
    ],
    ids=str,
)
def test_w002_a_host_that_djongo_ignores(settings, alias, database, found):
    alias("djongo", **database)
    assert ids(static(settings, DATABASE="events")) == found


def test_the_static_checks_do_not_connect(settings):
    # Nothing listens there; connecting would wait for the timeout.
    url = "mongodb://127.0.0.1:1/x"
    assert static(settings, URL=url, TIMEOUT=3600) == []


# --- subscriptions ----------------------------------------------------------


def test_e003_a_subscription_without_a_checkpoint_table(settings, subscribe):
    without = [name for name in settings.INSTALLED_APPS if name != RELATIONAL]
    settings.INSTALLED_APPS = without
    subscribe("mails")
    subscribe("orders", using="default")
    (message,) = check_subscriptions(None)
    assert ids([message]) == ["E003"]
    assert "'orders' writes to DATABASES['default']" in message.msg
    assert "'ossy_event_store.relational'" in message.hint
    assert "migrate --database default" in message.hint


@ONLY_URL
def test_e003_is_not_reported_with_the_table(subscribe):
    subscribe("orders", using="default")
    assert check_subscriptions(None) == []


def test_e003_is_not_reported_without_such_subscriptions(settings, subscribe):
    settings.INSTALLED_APPS = ["ossy_event_store"]
    subscribe("mails")
    assert check_subscriptions(None) == []
