"""What can be verified, and what is refused before anything is read."""

import datetime as dt

import pytest

from tests.support.verification import look


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"since": dt.datetime(2026, 1, 1)}, ValueError),
        ({"sample": -1}, ValueError),
        ({"ids": [{"$ne": None}]}, TypeError),
        ({"ids": [""]}, ValueError),
        ({"types": [5]}, TypeError),
    ],
    ids=["naive date", "negative sample", "operator", "empty id", "number as type"],
)
def test_options_that_make_no_sense_are_refused(options, error, face):
    with pytest.raises(error):
        look(face, **options)


@pytest.mark.parametrize("name", ["types", "ids", "since"])
def test_projections_of_some_streams_are_refused(name, face):
    value = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) if name == "since" else ["a"]
    with pytest.raises(ValueError, match="made from events of many streams"):
        look(face, projections=True, **{name: value})
