"""The docs leave nothing out, and name nothing that does not exist."""

import re
import shlex
from dataclasses import fields

import from_code
import pytest
import rooms

import ossy_event_store
from ossy_event_store import conf, exceptions
from ossy_event_store.mongodb import indexes
from ossy_event_store.monitoring import metrics
from tests.support.docs import DOCS, PAGES, README, ROOT, blocks_of, commands_of

GENERATED = {
    "settings": "all-settings",
    "checks": "all-checks",
    "commands": "all-commands",
    "exceptions": "all-exceptions",
    "documents": "all-indexes",
}


def reference(name):
    return (DOCS / f"reference/{name}.rst").read_text()


@pytest.mark.parametrize(("page", "directive"), GENERATED.items())
def test_a_reference_page_takes_its_facts_from_the_code(page, directive):
    assert f".. {directive}::\n" in reference(page)


def test_the_settings_page_names_every_setting():
    text = "\n".join(from_code.settings_lines())
    for setting in fields(conf.Settings):
        assert f".. confval:: {setting.name}\n" in text
        assert setting.metadata["doc"] in text
    for key in (*fields(conf.HealthLimits), *fields(conf.ContextOptions)):
        assert key.metadata["doc"] in text


def test_the_checks_page_names_every_check_that_the_source_can_report():
    files = (ROOT / "ossy_event_store/checks").glob("*.py")
    source = "\n".join(file.read_text() for file in files)
    text = "\n".join(from_code.checks_lines())
    # In a call, or as the value of a dict.
    reported = set(re.findall(r'(?:\b(?:error|warning)\(\s*|: )"([EW]\d+)"', source))
    assert reported
    assert reported == set(re.findall(r"ossy_event_store\.([EW]\d+)", text))


def test_a_check_that_any_page_names_exists():
    known = "\n".join(from_code.checks_lines())
    for page in [README, *DOCS.rglob("*.md"), *DOCS.rglob("*.rst")]:
        for named in re.findall(r"ossy_event_store\.[EW]\d+", page.read_text()):
            assert named in known, page


def test_the_commands_page_names_every_command_and_its_options():
    text = "\n".join(from_code.commands_lines())
    files = (ROOT / "ossy_event_store/management/commands").glob("[!_]*.py")
    names = {file.stem for file in files}
    assert names == set(from_code.command_names())
    for name in names:
        assert f".. program:: {name}\n" in text
        source = (ROOT / f"ossy_event_store/management/commands/{name}.py").read_text()
        section = text.split(f".. program:: {name}\n")[1].split(".. program::")[0]
        for option in re.findall(r'"(--?[a-z][a-z-]*)"', source):
            assert option in section, (name, option)


def test_an_option_that_any_page_uses_exists():
    blocks = [block for page in PAGES for block in blocks_of(page.read_text())]
    lines = [
        line.partition(" | ")[0] for block in blocks for line, _ in commands_of(block)
    ]
    uses = [shlex.split(line)[2:] for line in lines if " manage.py " in line]
    own = [(name, words) for name, *words in uses if name in from_code.command_names()]
    assert own
    for name, words in own:
        known = from_code.option_strings(name)
        assert {word for word in words if word.startswith("-")} <= known, name


def test_the_exceptions_page_names_every_exception_and_its_attributes():
    text = "\n".join(from_code.exceptions_lines())
    for name in exceptions.__all__:
        assert f".. py:exception:: {name}\n" in text
    conflict = text.split(":: ConcurrencyError\n")[1].split("..")[0]
    assert "``aggregate_id``, ``expected_version``, ``actual_version``" in conflict


@pytest.mark.parametrize("name", exceptions.__all__)
def test_the_tree_of_exceptions_holds_every_exception(name):
    assert name in exceptions.__doc__


@pytest.mark.parametrize("name", ossy_event_store.__all__)
def test_every_public_name_is_on_the_api_page(name):
    assert re.search(rf"\bossy_event_store\.{name}\b", reference("api"))


def test_the_indexes_page_gives_every_index_its_reason():
    text = "\n".join(from_code.indexes_lines())
    for index in indexes.INDEXES:
        assert index.reason in text


def test_the_page_on_monitoring_names_every_metric():
    text = (DOCS / "howto/monitoring.md").read_text()
    given = dict.fromkeys(("head", "events", "running", "lag_seconds", "damaged"), 0)
    figures = {"ok": True, "store": {"reachable": True}, "positions": given}
    figures |= {"subscriptions": [], "outboxes": []}
    for metric in metrics.metrics(figures):
        name = metric.name + ("_total" if metric.type == "counter" else "")
        assert f"| `{name}` | " in text


def test_the_architecture_page_shows_the_picture_and_every_module():
    page = (DOCS / "architecture.rst").read_text()
    assert page.index(".. all-rooms::\n") < page.index(".. all-modules::\n")
    known, text = rooms.modules(), "\n".join(from_code.modules_lines())
    assert len(known) > 100
    for name, path in known.items():
        assert f" - ``{name}``\n" in text
        assert rooms.summary(path), name


def test_the_architecture_page_names_modules_that_exist():
    page = (DOCS / "architecture.rst").read_text()
    named = re.findall(r"``([a-z_]+(?:\.[a-z_]+)+)``", page)
    assert named
    assert set(named) <= set(rooms.modules())


def test_a_module_is_in_a_layer_after_those_that_it_imports():
    arrows = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"b"}}
    assert rooms.layers(arrows) == [["c"], ["b"], ["a", "d"]]


def test_a_circle_of_imports_is_found_and_named():
    arrows = {"a": {"b"}, "b": {"a", "c"}, "c": set(), "d": {"a"}}
    with pytest.raises(ValueError, match=r"circle of imports among .'a', 'b'.$"):
        rooms.layers(arrows)
