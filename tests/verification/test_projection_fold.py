"""What the documents of a projection should hold according to its events."""

import pytest
from bson import Int64

from ossy_event_store.verification.projection_fold import Missing, Share


@pytest.mark.parametrize(
    "keys",
    [range(-500, 500), [str(number) for number in range(1000)]],
    ids=["numbers", "texts"],
)
def test_the_halves_of_a_share_make_up_the_whole(keys):
    keys = list(keys)
    share = Share(7, 3, 2)
    one, other = share.halves()
    whole = set(filter(share.holds, keys))
    assert set(filter(one.holds, keys)) | set(filter(other.holds, keys)) == whole
    assert not set(filter(one.holds, keys)) & set(filter(other.holds, keys))
    assert 250 < len(whole) < 420
    assert 90 < len(set(filter(one.holds, keys))) < 240


def test_a_number_is_in_one_share_whatever_its_width():
    shares = [Share(salt, 16, 3) for salt in range(100)]
    assert any(share.holds(5) for share in shares)
    assert all(share.holds(5) == share.holds(Int64(5)) for share in shares)


def test_events_of_a_parked_stream_are_missing_from_its_position_on():
    missing = Missing({"a": 5}, {3})
    events = [("a", 4), ("a", 5), ("a", 6), ("b", 3), ("b", 6)]
    held = [missing.holds({"aggregateId": a, "position": p}) for a, p in events]
    assert held == [False, True, True, True, False]
