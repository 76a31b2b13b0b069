"""Where the store is, by the settings, and the errors if they do not say so."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store.mongodb import location

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    "documents": {
        "ENGINE": "django_mongodb_backend",
        "HOST": "mongodb://10.0.0.1",
        "NAME": "site",
    },
    "older": {
        "ENGINE": "djongo",
        "NAME": "site",
        "CLIENT": {"host": "mongodb://10.0.0.2", "username": "ann"},
    },
}


@pytest.fixture(autouse=True)
def nothing_said(settings, monkeypatch):
    """Settings and an environment without a store."""
    settings.OSSY_EVENT_STORE = {}
    monkeypatch.delenv("DB_URL", raising=False)
    monkeypatch.delenv("DB_NAME", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setattr(location.connections, "settings", DATABASES)
    names = {alias: database["NAME"] for alias, database in DATABASES.items()}
    monkeypatch.setattr(location, "_real_names", names)


def test_without_a_setting_the_error_names_the_four_ways():
    with pytest.raises(ImproperlyConfigured) as error:
        location.resolve()
    for way in ("['URL']", "['DATABASE']", "DB_URL", "Mongo.connect(url)"):
        assert way in str(error.value)


def test_the_environment_comes_last(settings, monkeypatch):
    monkeypatch.setenv("DB_URL", "mongodb://environment/shop")
    assert location.resolve().url == "mongodb://environment/shop"
    settings.OSSY_EVENT_STORE = {"DATABASE": "older"}
    assert location.resolve().url == "mongodb://10.0.0.2"
    settings.OSSY_EVENT_STORE = {"DATABASE": "older", "URL": "mongodb://setting"}
    assert location.resolve().url == "mongodb://setting"


def test_connect_comes_first(settings, monkeypatch):
    settings.OSSY_EVENT_STORE = {"URL": "mongodb://setting"}
    try:
        location.use("mongodb://given")
        assert location.resolve().url == "mongodb://given"
    finally:
        location.use(None)
    assert location.resolve().url == "mongodb://setting"


@pytest.mark.parametrize(
    ("url", "given", "environment", "name"),
    [
        ("mongodb://host/shop", None, None, "test_shop"),
        ("mongodb://host/shop?tls=true", "other", None, "test_shop"),
        ("mongodb://host", "other", "third", "test_other"),
        ("mongodb://host", None, "third", "test_third"),
        ("mongodb://host/", None, None, "test_event_store"),
        ("mongodb+srv://host.example/shop?w=1", None, None, "test_shop"),
        ("mongodb+srv://host.example", None, None, "test_event_store"),
        ("embedded://some/folder", "other", None, "test_other"),
        ("mongodb://host/test_shop", None, None, "test_test_shop"),
    ],
)
def test_the_name_of_the_database(settings, monkeypatch, url, given, environment, name):
    settings.OSSY_EVENT_STORE = {"URL": url, "NAME": given}
    if environment:
        monkeypatch.setenv("DB_NAME", environment)
    assert location.resolve().name == name


def test_outside_of_tests_the_name_is_that_of_the_settings(settings, monkeypatch):
    settings.OSSY_EVENT_STORE = {"URL": "mongodb://host/shop"}
    monkeypatch.setattr(location, "is_test_run", lambda: False)
    assert location.resolve().name == "shop"


def test_each_process_of_a_parallel_django_run_has_its_own_database(
    settings, monkeypatch
):
    settings.OSSY_EVENT_STORE = {"URL": "mongodb://host/shop"}
    monkeypatch.setattr("django.test.runner._worker_id", 2, raising=False)
    assert location._test_name("shop") == "test_shop_2"


def test_each_worker_of_pytest_xdist_has_its_own_database(settings, monkeypatch):
    settings.OSSY_EVENT_STORE = {"URL": "mongodb://host/shop"}
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw3")
    assert location.resolve().name == "test_shop_gw3"


def test_the_name_follows_whatever_it_depends_on(settings, monkeypatch):
    """What was resolved is kept, and must not outlive what it was resolved from."""
    settings.OSSY_EVENT_STORE = {"URL": "mongodb://host/shop"}
    assert location.resolve().name == "test_shop"
    monkeypatch.setattr("django.test.runner._worker_id", 2, raising=False)
    assert location.resolve().name == "test_shop_2"
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw3")
    assert location.resolve().name == "test_shop_gw3"
    settings.OSSY_EVENT_STORE = {"DATABASE": "older"}
    assert location.resolve().name == "test_site_gw3"
    monkeypatch.setitem(location._real_names, "older", "other")
    assert location.resolve().name == "test_other_gw3"


@pytest.mark.parametrize("letter", ["n", "ñ", "日"])
def test_the_longest_name_fits_with_what_tests_add(monkeypatch, letter):
    long = letter * (location.LONGEST_NAME // len(letter.encode()))
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw10")
    names = {location._test_name(long), location._test_name(f"{long[:-1]}m")}
    assert len(names) == 2
    for name in names:
        assert len(name.encode()) <= location.LONGEST_NAME
        assert name.startswith(f"test_{long[:10]}")
        assert name.endswith("_gw10")


def test_a_djongo_alias_leads_to_our_own_client(settings):
    settings.OSSY_EVENT_STORE = {"DATABASE": "older"}
    source = location.resolve()
    assert (source.url, source.alias, source.name) == (
        "mongodb://10.0.0.2",
        "older",
        "test_site",
    )
    assert source.options == {"username": "ann"}
    assert not source.borrows


def test_the_client_of_a_mongodb_backend_alias_is_borrowed(settings, monkeypatch):
    settings.OSSY_EVENT_STORE = {"DATABASE": "documents"}
    monkeypatch.setitem(DATABASES["documents"], "NAME", "test_site")
    assert location.resolve().borrows


def test_a_test_may_not_use_the_real_database_of_an_alias(settings):
    settings.OSSY_EVENT_STORE = {"DATABASE": "documents"}
    with pytest.raises(ImproperlyConfigured, match="the real database 'site'"):
        location.resolve()


def test_nor_one_that_is_called_like_one_of_tests(settings, monkeypatch):
    settings.OSSY_EVENT_STORE = {"DATABASE": "documents"}
    monkeypatch.setitem(DATABASES["documents"], "NAME", "test_shop")
    monkeypatch.setitem(location._real_names, "documents", "test_shop")
    with pytest.raises(ImproperlyConfigured, match="the real database 'test_shop'"):
        location.resolve()
    settings.OSSY_EVENT_STORE = {"DATABASE": "older"}
    monkeypatch.setitem(location._real_names, "older", "test_shop")
    for of_django in ("test_shop", "test_test_shop"):  # before and after it renames
        monkeypatch.setitem(DATABASES["older"], "NAME", of_django)
        assert location.resolve().name == "test_test_shop"


def test_the_name_that_an_alias_has_for_tests_may_be_any(settings, monkeypatch):
    settings.OSSY_EVENT_STORE = {"DATABASE": "documents"}
    monkeypatch.setitem(DATABASES["documents"], "NAME", "trial")
    monkeypatch.setitem(DATABASES["documents"], "TEST", {"NAME": "trial"})
    assert location.resolve().borrows


def test_an_unknown_alias_names_the_known_ones(settings):
    settings.OSSY_EVENT_STORE = {"DATABASE": "documnets"}
    with pytest.raises(ImproperlyConfigured, match="only default, documents, older"):
        location.resolve()


def test_an_sql_alias_is_refused(settings):
    settings.OSSY_EVENT_STORE = {"DATABASE": "default"}
    with pytest.raises(ImproperlyConfigured, match="django_mongodb_backend or djongo"):
        location.resolve()


def test_a_url_of_another_scheme_is_refused(settings):
    settings.OSSY_EVENT_STORE = {"URL": "postgres://ann:secret@host/db"}
    with pytest.raises(ImproperlyConfigured) as error:
        location.resolve()
    assert "mongodb://" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://ann:se/cret@host/db",
        "mongodb://ann:se@cret@host",
        "mongodb://ann:secret@host:port/db",
        "mongodb://ann:se%zzcret@host/db",
        "mongodb://ann:1?secret@host/db",
    ],
)
def test_a_malformed_url_is_refused_without_its_password(url):
    with pytest.raises(ImproperlyConfigured, match="not a valid MongoDB URL") as error:
        location.use(url)
    assert "cret" not in str(error.value)
    assert error.value.__suppress_context__
    assert location._connected is None


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t"])
def test_the_end_of_a_line_belongs_to_no_name(settings, monkeypatch, end):
    settings.OSSY_EVENT_STORE = {"URL": f"mongodb://host/shop{end}"}
    assert location.resolve().name == "test_shop"
    settings.OSSY_EVENT_STORE = {"URL": "mongodb://host", "NAME": f"shop{end}"}
    assert location.resolve().name == "test_shop"
    settings.OSSY_EVENT_STORE = {}
    monkeypatch.setenv("DB_URL", f"mongodb://host/?replicaSet=rs0{end}")
    monkeypatch.setenv("DB_NAME", f"shop{end}")
    source = location.resolve()
    assert (source.url, source.name) == ("mongodb://host/?replicaSet=rs0", "test_shop")


def test_a_line_break_inside_of_a_url_is_refused():
    with pytest.raises(ImproperlyConfigured, match="line break"):
        location.use("mongodb://host/\nshop")


def test_a_line_break_inside_of_a_name_is_refused(settings):
    settings.OSSY_EVENT_STORE = {"URL": "mongodb://host", "NAME": "sh\nop"}
    with pytest.raises(ImproperlyConfigured, match="database name"):
        location.resolve()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "mongodb://host/?maxPoolSize=many",
            "option maxPoolSize: .* must be an integer",
        ),
        (
            "mongodb://ann:x@host/?w=1&tlsCAFile=/nowhere",
            "option tlsCAFile: .*(readable|No such file)",
        ),
        ("mongodb://host/?tlsCertificateKeyFile=/tmp", "option tlsCertificateKeyFile:"),
        ("mongodb://host/?maxpolsize=1", "not know .*mean maxpoolsize"),
        ("mongodb://host/?readPreference=some", "option readPreference: .*valid"),
        ("mongodb+srv://a.b.c/?srvMaxHosts=1&w=1&tls=2", "option tls:"),
        ("mongodb://host/?directConnection=true&loadBalanced=true", "directConnection"),
        ("mongodb://ho st:99999/", "Port must be"),
    ],
)
def test_what_is_wrong_with_an_option_is_named(url, message):
    with pytest.raises(ImproperlyConfigured, match=message) as error:
        location.use(url)
    assert "percent-encoded" not in str(error.value)


def test_a_secret_option_is_named_without_its_value():
    option = "authMechanismProperties=s3cret"
    with pytest.raises(ImproperlyConfigured, match="authMechanismProperties") as error:
        location.use(f"mongodb://host/?{option}")
    assert "s3cret" not in str(error.value)
