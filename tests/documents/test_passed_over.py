"""The reader's rule: what is an event, and what is passed over, named and counted."""

import pytest
from bson import Code, Int64

from ossy_event_store.documents.passed_over import PassedOver, is_event, reason_against

EVENT = {"_id": 1, "aggregateId": "a", "aggregateType": "Book", "aggregateVersion": 1}
EVENT |= {"type": "BookBought"}


def test_a_document_with_stream_version_and_types_is_an_event():
    for version in 1, Int64(2**40):
        assert is_event(EVENT | {"aggregateVersion": version})
    assert reason_against(EVENT) == ""


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("aggregateId", None, "aggregateId must be a string, not NoneType"),
        ("aggregateId", {"a": 1}, "aggregateId must be a string, not dict"),
        ("aggregateId", Code("f()"), "aggregateId must be a string, not Code"),
        ("aggregateVersion", None, "must be an integer from 1, not NoneType"),
        ("aggregateVersion", "1", "must be an integer from 1, not str"),
        ("aggregateVersion", 0, "must be an integer from 1, not 0"),
        ("aggregateVersion", True, "must be an integer from 1, not True"),
        ("aggregateVersion", 1.5, "must be an integer from 1, not 1.5"),
        ("aggregateType", 7, "aggregateType must be a string, not 7"),
        ("type", ["a"], "type must be a string, not list"),
    ],
)
def test_any_other_document_is_none_and_the_reason_is_said(field, value, reason):
    wrong = EVENT | {field: value}
    assert not is_event(wrong)
    assert reason in reason_against(wrong)
    del wrong[field]
    assert reason_against(wrong) == f"{field} is missing"


def test_what_is_passed_over_is_counted_and_the_first_are_named():
    passed = PassedOver()
    assert not passed
    assert passed.events([EVENT, {"_id": "beside"}]) == [EVENT]
    assert str(passed) == (
        "Passed over 1 document that is no event ('beside': aggregateId is missing)."
    )
    passed.events([{"_id": number} for number in range(9)])
    other = PassedOver()
    other.include(passed)
    assert (other.count, len(other.named)) == (10, 5)
    assert str(other).startswith("Passed over 10 documents that are no events (")
    assert str(other).endswith("; …).")
