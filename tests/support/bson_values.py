"""Strategies for any BSON value, and any key."""

import datetime as dt

import pymongo
from bson import (
    Binary,
    Code,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
)
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

# PyMongo before 4.14 cannot encode the last of them.
SUBTYPES = [1, 2, 5, 6, 9, 128] + [255] * (pymongo.version_tuple >= (4, 14))
LETTERS = st.characters(exclude_categories=["Cs"])
ODD_KEYS = ["a.b", "$set", "", "_id", "__proto__", "$oid", "$date", "$document", "$ne"]
KEYS = st.sampled_from(ODD_KEYS) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6
).filter(lambda key: key not in ("$ref", "$id", "$db"))
CLEAN = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6
)
SIMPLE = st.one_of(
    st.none(),
    st.booleans(),
    st.text(LETTERS, max_size=12),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.integers(-9, 9).map(Int64),
    st.floats(allow_nan=False, allow_infinity=False),
)
ZONES = st.integers(-840, 840).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
LEAVES = SIMPLE | st.one_of(
    st.binary(max_size=20),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.uuids(),
    st.builds(Binary, st.binary(max_size=9), st.sampled_from(SUBTYPES)),
    st.builds(Binary, st.binary(min_size=16, max_size=16), st.sampled_from([3, 4])),
    st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=ZONES),
    st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
    st.sampled_from(
        ["0", "-0", "1.10", "NaN", "Infinity", "-Infinity", "1E+6111", "1E-6176"]
    ).map(Decimal128),
    st.builds(Regex, CLEAN, st.sampled_from(["", "i", "im", "imsux"])),
    st.builds(Code, st.text(LETTERS, max_size=9)),
    st.builds(Code, CLEAN, st.dictionaries(KEYS, SIMPLE, max_size=3)),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.sampled_from([MinKey(), MaxKey()]),
    st.builds(DBRef, CLEAN, SIMPLE, st.none() | CLEAN),
    st.builds(lambda ref, id: {"$ref": ref, "$id": id}, CLEAN, SIMPLE),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)
ANY = hypothesis_settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
