"""README, CHANGELOG and CONTRIBUTING say what is there; the docs build."""

import configparser
import re
import subprocess
import sys
from dataclasses import fields

import pytest

import ossy_event_store
from ossy_event_store import conf
from tests.support.docs import DOCS, README, ROOT, run


def dev_names():
    """Return the names that dev.py accepts, as it says itself."""
    command = [sys.executable, "dev.py"]
    usage = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert usage.returncode == 1
    return set(re.findall(r"\w+", usage.stderr.split("NAME:")[1]))


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md"], ids=str)
def test_the_commands_of_dev_py_that_a_page_names_exist(page):
    named = set(re.findall(r"python3 dev\.py (\w+)", page.read_text()))
    assert named
    assert named <= dev_names()


def test_contributing_names_every_command_of_dev_py():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert dev_names() <= set(re.findall(r"dev\.py (\w+)", text))


def test_pre_commit_and_tox_ask_for_the_same_ruff():
    asked = [
        set(re.findall(r"ruff[>=][^\s\"\]]+", (ROOT / name).read_text()))
        for name in (".pre-commit-config.yaml", "tox.ini")
    ]
    assert asked[0] == asked[1] != set()


def test_the_readme_fits_on_a_few_screens():
    assert len(README.read_text().splitlines()) <= 110


def test_the_readme_names_the_versions_of_the_package_metadata():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = README.read_text()
    for line in setup["metadata"]["classifiers"].split("\n"):
        if found := re.fullmatch(r"(?:Framework|Programming).* :: (\d+\.\d+)", line):
            assert found[1] in text, line
    requirements = setup["options"]["install_requires"] + str(
        dict(setup["options.extras_require"])
    )
    for version in ("4.2", "4.13.1", "5.2", "1.3.15"):
        assert version in requirements
        assert version in text


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md"], ids=str)
def test_the_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_changelog_begins_with_the_version_of_the_package():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[(.+?)\]", text, re.M)[1] == ossy_event_store.__version__


@pytest.mark.docs
def test_the_docs_build_without_a_warning(tmp_path):
    for needed in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(needed)
    run("-m", "sphinx", "-n", "-W", "-q", "-b", "html", DOCS, tmp_path, cwd=ROOT)
    page = (tmp_path / "reference/settings.html").read_text()
    assert all(setting.name in page for setting in fields(conf.Settings))
