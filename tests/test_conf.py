"""The settings: which are refused and how, and no message contains a secret."""

import contextlib
import io
import logging
import traceback
import warnings
from dataclasses import fields
from urllib.parse import quote, quote_plus

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import override_settings
from hypothesis import example, given
from hypothesis import strategies as st
from pymongo.uri_parser import parse_uri

from ossy_event_store import Mongo, conf
from ossy_event_store.checks import check_deployment, check_server, check_settings
from ossy_event_store.conf import (
    ContextOptions,
    HealthLimits,
    Settings,
    get_settings,
    problems,
)
from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.mongodb import location
from tests.support.bson_values import ANY

ONLY_URL = pytest.mark.skipif(
    django_settings.STORE != "url", reason="the store is found in DATABASES"
)
SECRET = "hunter2secret"


def problems_of(value):
    return [str(problem) for problem in problems(value)]


@pytest.fixture
def nowhere(settings, monkeypatch):
    """Settings and an environment without a store."""
    monkeypatch.delenv("DB_URL", raising=False)
    monkeypatch.delenv("DB_NAME", raising=False)
    settings.OSSY_EVENT_STORE = {}
    return settings


# Keys and kinds


def test_no_setting_gives_the_defaults(nowhere):
    del nowhere.OSSY_EVENT_STORE
    conf.get_settings.cache_clear()
    assert get_settings() == Settings()


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("URI", "Did you mean 'URL'?"),
        ("url", "Did you mean 'URL'?"),
        ("DATABASES", "Did you mean 'DATABASE'?"),
        ("TIME_OUT", "Did you mean 'TIMEOUT'?"),
        ("REBUILD_AT_STARTUP", "Did you mean 'REBUILD_ON_STARTUP'?"),
        ("zzz", "Known keys: URL, DATABASE, NAME, OPTIONS, TIMEOUT, REBUILD_ON_"),
        (5, "Known keys: URL"),
        (None, "Known keys: URL"),
    ],
)
def test_an_unknown_key_is_a_problem_that_names_the_closest_one(key, hint):
    (problem,) = problems_of({key: 1})
    assert problem.startswith(f"OSSY_EVENT_STORE has no key {key!r}. {hint}")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *(
            (key, 5, "a string, not int")
            for key in ("URL", "DATABASE", "NAME", "MONGOD")
        ),
        *((key, b"x", "a string, not bytes") for key in ("URL", "NAME")),
        ("URL", {"host": SECRET}, "a string, not dict"),
        ("OPTIONS", None, "a dict, not NoneType"),
        ("OPTIONS", [("tls", True)], "a dict, not list"),
        ("TIMEOUT", "10", "a number of seconds above 0, not str"),
        ("TIMEOUT", 0, "above 0, not int"),
        ("TIMEOUT", -1.5, "above 0, not float"),
        ("TIMEOUT", True, "above 0, not bool"),
        ("TIMEOUT", None, "above 0, not NoneType"),
        ("TIMEOUT", float("nan"), "above 0, not float"),
        ("TIMEOUT", float("inf"), "above 0, not float"),
        ("REBUILD_ON_STARTUP", True, "'background', 'blocking' or False, not bool"),
        ("REBUILD_ON_STARTUP", 0, "or False, not int"),
        ("REBUILD_ON_STARTUP", None, "or False, not NoneType"),
        ("REBUILD_ON_STARTUP", "Background", "or False, not str"),
        ("REBUILD_ON_STARTUP", ["background"], "or False, not list"),
    ],
)
def test_a_value_of_the_wrong_type_is_a_problem(key, value, expected):
    (problem,) = problems_of({key: value})
    assert problem.startswith(f"OSSY_EVENT_STORE[{key!r}] must be ")
    assert expected in problem


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (5, "OSSY_EVENT_STORE['HEALTH'] must be a dict, not int."),
        ({"LAGS": 1}, "OSSY_EVENT_STORE['HEALTH'] has no key 'LAGS'. Did you mean"),
        ({"zzz": 1}, "has no key 'zzz'. Known keys: LAG, LAG_SECONDS, PARKED, POSI"),
        ({"LAG": -1}, "['HEALTH']['LAG'] must be a number from 0, or None, not int."),
        ({"LAG": 1.5}, "['LAG'] must be a number from 0, or None, not float."),
        ({"PARKED": True}, "['PARKED'] must be a number from 0, or None, not bool."),
        ({"LAG_SECONDS": "1"}, "must be seconds above 0, or None, not str."),
        ({"POSITION_SECONDS": 0}, "must be seconds above 0, or None, not int."),
        ({"RUNNING": 1}, "['RUNNING'] must be True, False or None, not int."),
        ({"TIMEOUT": None}, "['TIMEOUT'] must be a number of seconds above 0, not"),
    ],
)
def test_a_wrong_health_limit_is_a_problem(health, expected):
    (problem,) = problems_of({"HEALTH": health})
    assert expected in problem


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (5, "OSSY_EVENT_STORE['CONTEXT'] must be a dict, not int."),
        ({"USERS": "pk"}, "OSSY_EVENT_STORE['CONTEXT'] has no key 'USERS'. Did you"),
        ({"USER": "a b"}, "['CONTEXT']['USER'] must be 'username', 'pk', another attr"),
        ({"ADDRESS": 1}, "['CONTEXT']['ADDRESS'] must be True or False, not int."),
    ],
)
def test_a_wrong_option_of_the_context_is_a_problem(context, expected):
    (problem,) = problems_of({"CONTEXT": context})
    assert expected in problem


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Settings, conf._EXPECTED),
        (HealthLimits, conf._EXPECTED_OF_HEALTH),
        (ContextOptions, conf._EXPECTED_OF_CONTEXT),
    ],
)
def test_every_key_is_checked_in_the_order_of_the_docs(kind, given):
    assert list(given) == [field.name for field in fields(kind)]


@pytest.mark.parametrize("value", [None, [], "mongodb://x", {"URL"}, 5])
def test_a_setting_that_is_no_dict_is_a_problem(value):
    kind = type(value).__name__
    assert problems_of(value) == [f"OSSY_EVENT_STORE must be a dict, not {kind}."]


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"URL": None, "DATABASE": None, "NAME": None, "MONGOD": None},
        {"URL": "mongodb://x", "NAME": "n", "OPTIONS": {"tls": True}},
        {"TIMEOUT": 1},
        {"TIMEOUT": 0.5},
        {"HEALTH": {}},
        {"HEALTH": dict.fromkeys(("LAG", "LAG_SECONDS", "PARKED", "RUNNING"))},
        {"HEALTH": {"LAG": 0, "PARKED": 3, "LAG_SECONDS": 0.5, "RUNNING": False}},
        *({"REBUILD_ON_STARTUP": v} for v in ("background", "blocking", False)),
    ],
)
def test_correct_settings_are_no_problem(value):
    assert problems_of(value) == []


def test_every_problem_is_yielded():
    assert len(problems_of({"URL": 5, "zzz": 1, "TIMEOUT": -1})) == 3


def test_wrong_settings_raise_improperly_configured(nowhere):
    nowhere.OSSY_EVENT_STORE = {"URI": "x"}
    with pytest.raises(ImproperlyConfigured, match=r"has no key 'URI'\. Did you mean"):
        get_settings()


def test_override_settings_is_followed(nowhere):
    with override_settings(OSSY_EVENT_STORE={"TIMEOUT": 3}):
        assert get_settings().TIMEOUT == 3
    assert get_settings().TIMEOUT == 10


def test_the_settings_are_read_once(nowhere):
    assert get_settings() is get_settings()


def test_a_change_of_other_settings_does_not_reload_them(nowhere):
    before = get_settings()
    with override_settings(DEBUG=True):
        assert get_settings() is before


def test_wrong_settings_can_be_fixed_without_a_restart(nowhere):
    test_wrong_settings_raise_improperly_configured(nowhere)
    nowhere.OSSY_EVENT_STORE = {"TIMEOUT": 4}
    assert get_settings().TIMEOUT == 4


def test_the_source_follows_every_change_of_the_settings(nowhere):
    # The memory of settings that are gone is soon that of the next.
    for number in range(100):
        url = f"mongodb://host{number}"
        with override_settings(OSSY_EVENT_STORE={"URL": url}):
            assert location.resolve().url == url


def test_every_key_is_documented():
    assert all(
        field.metadata["doc"] for field in Settings.__dataclass_fields__.values()
    )


@pytest.mark.parametrize("name", ["a/b", "a.b", "a b", 'a"b', "a$b", "x" * 64])
def test_an_invalid_database_name_raises_improperly_configured(nowhere, name):
    nowhere.OSSY_EVENT_STORE = {"URL": "mongodb://127.0.0.1", "NAME": name}
    with pytest.raises(ImproperlyConfigured, match="NAME"):
        location.resolve()


# Secrets


def test_the_settings_do_not_show_the_url_or_the_options():
    shown = repr(
        Settings(URL=f"mongodb://ann:{SECRET}@x", OPTIONS={"password": SECRET})
    )
    assert SECRET not in shown


def test_a_source_does_not_show_the_url_or_the_options(nowhere):
    nowhere.OSSY_EVENT_STORE = {
        "URL": f"mongodb://ann:{SECRET}@x/name",
        "OPTIONS": {"password": SECRET},
    }
    assert SECRET not in repr(location.resolve())


@pytest.mark.parametrize(
    "value",
    [
        f"mongodb://ann:{SECRET}@x",
        {f"mongodb://ann:{SECRET}@x"},
        [f"mongodb://ann:{SECRET}@x"],
        {"URL": [f"mongodb://ann:{SECRET}@x"]},
        {"URL": f"mongodb://ann:{SECRET}@x".encode()},
        {"OPTIONS": f"password={SECRET}"},
        {"OPTIONS": [SECRET]},
        {"MONGOD": (SECRET,)},
        {"REBUILD_ON_STARTUP": SECRET},
        {"TIMEOUT": SECRET},
    ],
)
def test_a_problem_never_holds_a_value(value):
    assert not any(SECRET in problem for problem in problems_of(value))


ODD = st.text("@/:?%#[]&=+,; 1$\\\"'é", max_size=4)
# A mark in the middle that nothing but the password has.
PASSWORDS = st.builds(lambda a, b: f"{a}{SECRET}{b}", ODD, ODD)
SHAPES = st.sampled_from(
    [
        "mongodb://ann:{}@127.0.0.1:1/name",
        "mongodb://ann:{}@127.0.0.1:1",
        "mongodb://ann:{}@127.0.0.1:one/name",
        "mongodb://ann:{}@127.0.0.1:1,127.0.0.1:2/name?replicaSet=r",
        "mongodb://ann:{}@127.0.0.1:1/name?authMechanism=NONE",
        "mongodb://ann:{}@127.0.0.1:1/name?serverSelectionTimeoutMS=x",
        "mongodb://ann:{}@127.0.0.1:1/na me",
        "mongodb://ann:{}@/name",
        "mongodb://ann:{}",
        "mongodb://{}@127.0.0.1:1/name",
        "mongodb://:{}@127.0.0.1:1/name",
        "mongodb://ann@{}@127.0.0.1:1/name",
        "mongodb://127.0.0.1:1/name?authMechanismProperties=TOKEN:{}",
        "mongodb://127.0.0.1:1/name?tlsCertificateKeyFilePassword={}",
        "mongodb:/ann:{}@127.0.0.1:1/name",
        "mongodb+srv://ann:{}@127.0.0.1",
        "mongodb+srv://ann:{}@127.0.0.1:27017/name",
        "mongodb+srv://ann:{}@a,b/name",
        "postgres://ann:{}@127.0.0.1/name",
        "ann:{}@127.0.0.1",
        "{}",
    ]
)
QUOTED = st.sampled_from([str, quote, quote_plus, lambda password: password + "%"])


def hides_it(url):
    """Whether the mark is not the name of a host, which messages have to contain."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return not any(SECRET in host for host, _ in parse_uri(url)["nodelist"])
    return True


URLS = st.builds(
    lambda shape, how, pw: shape.format(how(pw)), SHAPES, QUOTED, PASSWORDS
).filter(hides_it)


TOLD = (ImproperlyConfigured, StoreUnavailable, CommandError, TypeError)


def told_about(action):
    """The text of everything that an action raises, returns, warns and logs."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = repr(action())
            except TOLD as error:
                # With its causes, and what was raised before it.
                result = repr(error) + "".join(traceback.format_exception(error))
    finally:
        logging.getLogger().removeHandler(handler)
    return result + log.getvalue() + "".join(str(w.message) for w in caught)


@pytest.mark.usefixtures("nowhere")
@ANY
@given(URLS)
@example(f"mongodb://ann:{SECRET}@127.0.0.1:1/name?a={SECRET}")
@example(f"mongodb://ann:p?{SECRET}=1@127.0.0.1:1/name")
@example(f"mongodb://ann:p/{SECRET}@127.0.0.1:1/name")
@example(f"mongodb+srv://ann:p/{SECRET}@x.example.com/name")
@example(f"mongodb://ann:1/{SECRET}@127.0.0.1:1/name")
@example(f"mongodb://ann:1/{SECRET}@127.0.0.1:1")
@example(f"mongodb://ann:/%3A{SECRET}/")
def test_the_checks_never_reveal_a_password(url):
    with override_settings(OSSY_EVENT_STORE={"URL": url}):
        assert SECRET not in told_about(lambda: check_settings(None))
        assert SECRET not in told_about(lambda: check_deployment(None))
        assert SECRET not in told_about(location.resolve)


@pytest.mark.usefixtures("nowhere")
@ANY
@given(URLS)
def test_the_environments_url_never_reveals_a_password(url):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DB_URL", url.replace("\0", ""))
        assert SECRET not in told_about(lambda: check_settings(None))
        assert SECRET not in told_about(location.resolve)


@pytest.fixture
def _close():
    yield
    Mongo.close()


CONNECTING = ANY.__class__(ANY, max_examples=15)  # each waits for a client to close


@ONLY_URL
@pytest.mark.usefixtures("_close", "nowhere")
@CONNECTING
@given(URLS.filter(lambda url: not url.startswith("mongodb+srv")))
def test_a_connection_never_reveals_a_password(url):
    with override_settings(OSSY_EVENT_STORE={"TIMEOUT": 0.01}):
        assert SECRET not in told_about(lambda: Mongo.connect(url))


@ONLY_URL
@pytest.mark.usefixtures("_close", "nowhere")
@CONNECTING
@given(URLS.filter(lambda url: not url.startswith("mongodb+srv")))
def test_a_command_never_reveals_a_password(url):
    with override_settings(OSSY_EVENT_STORE={"URL": url, "TIMEOUT": 0.01}):
        assert SECRET not in told_about(lambda: call_command("ensure_event_store"))
        assert SECRET not in told_about(lambda: check_server(None, ["default"]))


@ONLY_URL
@pytest.mark.usefixtures("_close", "nowhere")
@pytest.mark.parametrize(
    "options",
    [
        {"password": SECRET},
        {"username": "ann", "password": SECRET, "authMechanism": SECRET},
        {"authMechanismProperties": f"TOKEN:{SECRET}"},
        {SECRET: 1},
        {"replicaSet": 5, "password": SECRET},
    ],
    ids=lambda options: " ".join(options).replace(SECRET, "unknown"),
)
def test_the_options_never_reveal_a_password(options):
    url = "mongodb://127.0.0.1:1/name"
    wrong = {"URL": url, "TIMEOUT": 0.01, "OPTIONS": options}
    with override_settings(OSSY_EVENT_STORE=wrong):
        assert SECRET not in told_about(Mongo.connect)


@ONLY_URL
@pytest.mark.usefixtures("_close", "nowhere")
@pytest.mark.parametrize(
    "options",
    [
        {"tlsCAFile": "/no/such/file"},
        {"tlsCertificateKeyFile": "/no/such/file"},
        {"no_such_option": 1},
        {"maxPoolSize": "many"},
        {"w": -1},
    ],
    ids=str,
)
def test_options_that_the_driver_refuses_raise_improperly_configured(options):
    wrong = {"URL": "mongodb://127.0.0.1:1/name", "OPTIONS": options}
    with override_settings(OSSY_EVENT_STORE=wrong), pytest.raises(ImproperlyConfigured):
        Mongo.connect()
