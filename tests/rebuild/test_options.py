"""The options of a rebuild: which exclude each other."""

import pytest

from ossy_event_store import AggregateRebuild
from ossy_event_store.rebuild.options import OptionsConflict, RebuildOptions
from ossy_event_store.rebuild.ranges import Partition


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"ids": ["a"], "workers": 2}, "ids", "workers"),
        ({"ids": ["a"], "partition": Partition(0, 2)}, "ids", "partition"),
        ({"ids": ["a"], "resume": True}, "ids", "resume"),
        ({"stale": True, "resume": True}, "stale", "resume"),
        ({"dry_run": True, "resume": True}, "dry_run", "resume"),
        ({"dry_run": True, "stale": True}, "dry_run", "stale"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_exclude_each_other_are_named(options, first, second):
    with pytest.raises(OptionsConflict) as caught:
        RebuildOptions(**options)
    assert (caught.value.first, caught.value.second) == (first, second)
    assert str(caught.value).startswith(f"{first} cannot be combined with {second}: ")
    assert isinstance(caught.value, ValueError)


def test_wrong_numbers_are_refused(face):
    for wrong in ({"workers": 0}, {"partition": (2, 2)}):
        with pytest.raises(ValueError, match=r"expected|must be"):
            face(AggregateRebuild.build_and_save_all, **wrong)
        with pytest.raises(ValueError, match=r"expected|must be"):
            face(AggregateRebuild.dry_run, **wrong)
