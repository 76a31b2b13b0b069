"""The report of a verification."""

from pathlib import Path

import pytest

from ossy_event_store.verification.report import KINDS, Finding, VerifyReport
from tests.support.verification import event, look


def test_some_of_many_findings_are_kept_and_all_are_counted(
    store, history, monkeypatch
):
    monkeypatch.setattr(VerifyReport, "kept_findings", 5)
    history.insert_many(event(f"b-{n}", 2) for n in range(12))
    report = look()
    assert len(report.findings) == len(report.as_json()["findings"]) == 5
    assert report.found == {"hole": 12}
    assert str(report).endswith(": 12 FINDINGS")


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (
            Finding("hole", "b", (2, 2), "", "x", "y"),
            "hole: stream 'b', version 2: expected x, found y",
        ),
        (
            Finding("hole", "b", (2, 4), "", "x", "y"),
            "hole: stream 'b', versions 2 to 4: expected x, found y",
        ),
        (
            Finding("index", None, None, "a.b", "x", "y"),
            "index: a.b: expected x, found y",
        ),
    ],
    ids=["one version", "several versions", "no stream"],
)
def test_a_finding_reads_as_a_line(finding, text):
    assert str(finding) == text


def test_the_docs_name_every_kind_of_finding():
    page = (Path(__file__).parents[2] / "docs/howto/verify.md").read_text()
    for kind, meaning in KINDS.items():
        assert f"| `{kind}` | {meaning} |" in page
