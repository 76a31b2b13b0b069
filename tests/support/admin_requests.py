"""Requests to the admin made up at random, with values that nobody expects."""

import base64
import datetime as dt
import random
from urllib.parse import quote_plus

import bson
from django.contrib.admin.utils import quote
from django.urls import reverse

from ossy_event_store.admin.paging import Cursor

PAGES = {
    "stream": ("", "overview/", "{}/change/", "{}/state/", "{}/download/"),
    "event": ("", "catalogue/", "{}/change/", "{}/download/"),
    "subscription": ("", "{}/change/"),
}
ACTIONS = {"stream": ("{}/rebuild/",), "subscription": ("{}/retry/", "{}/skip/")}
PARAMETERS = (
    *("q", "type", "event_type", "by", "correlation", "since", "until", "older"),
    *(
        "newer",
        "after",
        "version",
        "at",
        "order",
        "fresh",
        "stream",
        "position",
        "stored",
    ),
)
TEXTS = (
    *("", "\x00", "\n", "a\x00b", "x" * 2000, "9" * 34, "9" * 18, '{"$gt": ""}'),
    *("0", "1", "2", "-1", "1.5", "0000000000011", "1e3", "NaN", "٣", "²", "ü", "[]"),
    *("$where", "oldest", "newest"),
    *["0001-01-01", "9999-12-31", "2026-03-10", "2026-03-20", "2026-13-45", "2026-W01"],
    *["20260331", "2026-03-31T10:15", "24:00", "+02:00", "2026-10-25T02:30"],
    *["0001-01-01T00:00+14:00", "9999-12-31T23:59:59-14:00"],
)
BYTES = ["%ED%A0%80", "%FF", "%C3", "%00", "%", "%zz", "+", "=", "&", "%26"]
VALUES = (
    *(None, True, 0, -1, 1.5, float("nan"), float("inf"), bson.Int64(2**63 - 1)),
    *("", "x", "\x00", "x" * 3000, b"\x00", bson.Binary(b"x", 5)),
    *(bson.ObjectId(b"a" * 12), bson.MinKey(), bson.MaxKey(), bson.Regex("x")),
    *(bson.Code("f()"), bson.Code("f()", {"a": 1}), bson.Decimal128("NaN")),
    *(bson.Decimal128("1"), bson.Timestamp(1, 1), bson.DBRef("a", 1)),
    *({}, {"$gt": ""}, {"a": {"b": 1}}, [], [1, [2]], bson.DatetimeMS(2**60)),
    *(bson.DatetimeMS(-(2**60)), dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)),
    dt.datetime(2026, 3, 15, tzinfo=dt.UTC),
)  # fmt: skip


def requests(seed, number, ids):
    """Yield methods and addresses; ``ids`` are of streams, events, subscriptions."""
    chance = random.Random(seed)
    root = reverse("admin:app_list", args=["ossy_event_store"])
    for _ in range(number):
        is_action = chance.random() < 0.1
        pages = ACTIONS if is_action else PAGES
        model = chance.choice(list(pages))
        page = chance.choice(pages[model])
        if "{}" in page:
            page = page.format(_id(chance, ids))
        query = "&".join(
            f"{chance.choice(PARAMETERS)}={_value(chance, ids)}"
            for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 5)))
        )
        yield "post" if is_action else "get", f"{root}{model}/{page}?{query}"


def _id(chance, ids):
    if chance.random() < 0.8:
        return quote(chance.choice(ids))
    return quote(chance.choice(TEXTS)) or "_"


def _value(chance, ids):
    """Return a value of a query string, encoded."""
    kind = chance.randrange(5)
    if kind == 0:
        return chance.choice(BYTES)
    if kind == 1:
        return quote_plus(chance.choice(ids))
    if kind == 2:
        return str(Cursor(chance.choice(VALUES), chance.choice(VALUES)))
    if kind == 3:
        return _damaged(chance, str(Cursor(chance.choice(VALUES), "x")))
    return quote_plus(chance.choice(TEXTS))


def _damaged(chance, text):
    """Return a cursor in which one byte differs."""
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[chance.randrange(len(raw))] = chance.randrange(256)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
