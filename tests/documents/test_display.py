"""Stored values are rendered completely, with their types, and cannot harm the page."""

import datetime as dt
import re
import sys
import time
import unicodedata
import uuid
from html.parser import HTMLParser

import pytest
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
from django.utils.safestring import SafeString, mark_safe
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossy_event_store.documents.display import brief, lines, type_note, visible
from tests.support.bson_values import ANY, VALUES
from tests.support.event_documents import nested

OID = ObjectId("65e0a1b2c3d4e5f601234567")
NOON = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></bdi></span>",
    "&lt;b&gt;&quot;&#x27;",
    '\' onload="x" {{ x }} {% x %} {0} %s',
    "\u202eabc\u2066",
    "\\u202e",
    "\ud800 \udfff",
    "\u2028\u2029\0\x1b[31m\x7f\x85",
    "a\u200bb\ufeff\u200d",
    "שלום",
    "\U000e0041",
    "🦉",
    'end\\"',
]
# What the text of a page must never hold, besides the ends of its lines.
RAW = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)
ESCAPE = re.compile(r'\\(?:u(.{4})|U(.{8})|([nrt"\\]))', re.DOTALL)


class Page(HTMLParser):
    """Reads HTML as strictly as it is written: the tags, the text, each string."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.text, self.open, self.strings = "", [], []
        self.feed(html)
        self.close()
        assert self.open == []
        assert not RAW.search(self.text)

    def handle_starttag(self, tag, attributes):
        (css,) = (value for _, value in attributes) if attributes else [None]
        if tag == "span":
            assert re.fullmatch("es-(key|string|number|word|type|escape)", css)
        else:
            assert (tag, attributes) == ("bdi", [])
            self.strings.append("")
        self.open.append(tag if css is None else css)

    def handle_endtag(self, tag):
        assert self.open.pop().split("-")[0] == {"span": "es", "bdi": "bdi"}[tag]

    def handle_data(self, data):
        self.text += data
        if "bdi" in self.open:
            is_escape = self.open[-1] == "es-escape"
            self.strings[-1] += unescaped(data) if is_escape else data

    def handle_other(self, *args):
        raise AssertionError(args)

    handle_comment = handle_decl = handle_pi = unknown_decl = handle_other


def unescaped(escape):
    match = ESCAPE.fullmatch(escape)
    assert match, escape
    four, eight, short = match.groups()
    if short:
        return {"n": "\n", "r": "\r", "t": "\t"}.get(short, short)
    return chr(int(four or eight, 16))


def text_of(value, limit=64_000):
    return Page(lines(value, limit).html).text


def strings_in(value):
    """The keys and strings of a value, as they are written one after the other."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, str) and not isinstance(value, Code):
        yield str.__str__(value)


# Types


@pytest.mark.parametrize(
    ("value", "text", "note"),
    [
        (None, "null", ""),
        (True, "true", ""),
        (False, "false", ""),
        (7, "7", ""),
        (-(2**31), "-2147483648", ""),
        (2**31, "2147483648", "int64"),
        (-(2**31) - 1, "-2147483649", "int64"),
        (Int64(7), "7", "int64"),
        (2**63, "0x8000000000000000", "int beyond 64 bits"),
        (1.0, "1.0", ""),
        (-0.0, "-0.0", ""),
        (1e22, "1e+22", ""),
        (float("nan"), "NaN", "double"),
        (float("-inf"), "-Infinity", "double"),
        (Decimal128("1.10"), "1.10", "decimal128"),
        (Decimal128("NaN"), "NaN", "decimal128"),
        ("a", '"a"', ""),
        ('a"\\\n', r'"a\"\\\n"', ""),
        (NOON, "2024-02-29T12:00:00.000Z", "date"),
        (
            NOON.astimezone(dt.timezone(dt.timedelta(hours=2))),
            "2024-02-29T12:00:00.000Z",
            "date",
        ),
        (NOON.replace(tzinfo=None), "2024-02-29T12:00:00", "date"),
        (
            dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2))),
            "0001-01-01T00:00:00+02:00",
            "date",
        ),
        (DatetimeMS(2**60), "1152921504606846976", "date in milliseconds"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001", "uuid"),
        (OID, str(OID), "objectid"),
        (b"ab", "6162", "binary 2 bytes"),
        (Binary(b"a", 5), "61", "binary 1 byte, subtype 5"),
        (Regex(r"\d<", "im"), r"/\d</im", "regex"),
        (re.compile("a", re.IGNORECASE), "/a/iu", "regex"),
        (Regex(b"a"), "/b'a'/", "regex"),
        (Timestamp(1, 2), "1:2", "timestamp"),
        (MinKey(), "MinKey", "minkey"),
        (MaxKey(), "MaxKey", "maxkey"),
        (Code("f()"), '"f()"', "code"),
        ({1}, "{1}", "set"),
        (dt.date(2024, 1, 1), "datetime.date(2024, 1, 1)", "date"),
    ],
    ids=repr,
)
def test_a_value_is_shown_with_its_type(value, text, note):
    assert text_of(value) == (f"{text} {note}" if note else text)
    assert brief(value) == text
    assert type_note(value) == note


def test_a_document_is_shown_with_one_item_a_line():
    value = {"a": {"b": [1, Int64(2)], "c": {}}, "d": [], "e": (None,)}
    assert text_of(value) == (
        '{\n  "a": {\n    "b": [\n      1,\n      2 int64\n    ],\n    "c": {}\n  },\n'
        '  "d": [],\n  "e": [\n    null\n  ]\n}'
    )
    assert brief(value) == '{"a": {"b": [1, 2], "c": {}}, "d": [], "e": [null]}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            DBRef("c", OID),
            f'dbref {{\n  "$ref": "c",\n  "$id": {OID} objectid\n}}',
        ),
        (
            Code("f", {"a": Int64(1)}),
            'code {\n  "$code": "f",\n  "$scope": {\n    "a": 1 int64\n  }\n}',
        ),
    ],
)
def test_a_type_with_values_in_it_is_shown_as_a_document(value, text):
    assert text_of(value) == text


def test_each_kind_of_text_has_its_class():
    assert lines({"k": ["s\n", 1, None, Int64(1)]}).html == (
        '{\n  <span class="es-key"><bdi>&quot;k&quot;</bdi></span>: [\n'
        '    <span class="es-string"><bdi>&quot;s<span class="es-escape">\\n</span>'
        "&quot;</bdi></span>,\n"
        '    <span class="es-number">1</span>,\n'
        '    <span class="es-word">null</span>,\n'
        '    <span class="es-number">1</span> <span class="es-type">int64</span>\n'
        "  ]\n}"
    )


# Inert


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("kind", [str, mark_safe, Code, Regex, lambda t: {t: [t]}])
def test_hostile_text_is_only_text(text, kind):
    rendered = lines(kind(text))
    assert isinstance(rendered.html, SafeString)
    for string in Page(rendered.html).strings:
        assert text in string
    assert not RAW.search(brief(kind(text)))


class Odd:
    def __repr__(self):
        return mark_safe("<b>\u202e")

    def __html__(self):
        return "<b>"


class Broken:
    def __repr__(self):
        raise ValueError


@pytest.mark.parametrize("value", [Odd(), Broken(), {Odd(): 1}, [Odd], {Odd()}])
def test_a_value_of_an_unknown_type_is_only_text(value):
    Page(lines(value).html)
    assert not RAW.search(brief(value))


def test_every_invisible_character_is_shown_as_an_escape():
    categories = {"Cc", "Cs", "Zl", "Zp"}
    prepended = set(
        "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
    )
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        if category in categories or (category == "Cf" and character not in prepended):
            if 0x110BD <= code <= 0x110CD or 0x13430 <= code <= 0x1345F:
                continue  # signs of Kaithi and hieroglyphs, which are seen
            assert visible(character).isascii(), hex(code)
            assert visible(character) != character


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain é שלום 🦉 <b>", "plain é שלום 🦉 <b>"),
        ("a\u202eb", r"a\u202eb"),
        ("\n\t\0", r"\n\t\u0000"),
        (r"C:\new", r"C:\new"),
        ("\ud83e", r"\ud83e"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
    ids=ascii,
)
def test_a_text_becomes_visible(text, seen):
    assert visible(text) == seen


TEXTS = st.text(max_size=8) | st.sampled_from(HOSTILE)
ODD = st.recursive(
    VALUES | TEXTS | st.text(st.characters(categories=["Cs", "Cf", "Cc"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.mark.no_cover  # others run each line of it
@hypothesis_settings(ANY, max_examples=300)
@given(ODD)
def test_any_value_is_shown_whole(value):
    rendered = lines(value)
    page = Page(rendered.html)
    assert (rendered.is_cut, rendered.size) == (False, len(page.text))
    quoted = iter([s[1:-1] for s in page.strings if s.startswith('"')])
    assert all(string in quoted for string in strings_in(value))


@pytest.mark.no_cover  # others run each line of it
@hypothesis_settings(ANY, max_examples=300)
@given(ODD, st.integers(0, 300))
def test_any_value_is_cut_only_where_allowed(value, limit):
    complete, rendered = text_of(value), lines(value, limit)
    text = Page(rendered.html).text
    assert complete.startswith(text)
    assert len(text) <= limit
    assert rendered.is_cut == (len(complete) > limit)
    assert (rendered.size is None) == rendered.is_cut


@pytest.mark.no_cover  # others run each line of it
@hypothesis_settings(ANY, max_examples=300)
@given(ODD, st.integers(1, 200))
def test_any_value_is_brief(value, limit):
    text, complete = brief(value, limit), brief(value, 10**6)
    assert len(text) <= limit
    assert not RAW.search(text)
    assert "\n" not in text
    assert text == complete if len(complete) <= limit else text.endswith("…")
    assert complete.startswith(text.removesuffix("…"))


# Cut


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        ("abcdef", 4, '"abc'),
        ("ab", 4, '"ab"'),
        ("a\u202eb", 7, '"a'),
        ("a\u202eb", 8, r'"a\u202e'),
        (12345, 4, ""),
        ([1, 12345], 12, "[\n  1,\n  "),
        (b"abc", 3, "616"),
        (b"abc", 0, ""),
        (b"abc", -2, ""),
        (Int64(5), 4, "5 "),
    ],
)
def test_a_cut_leaves_no_half_number_or_escape(value, limit, text):
    rendered = lines(value, limit)
    assert Page(rendered.html).text == text
    assert rendered.is_cut == (text != '"ab"')


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        ({"amount": 9000, "note": "x" * 99}, 29, '{"amount": 9000, "note": "xx…'),
        ({"amount": 9000}, 14, '{"amount": …'),
        ("a\u202eb", 8, '"a…'),
        ("abc", 5, '"abc"'),
        ("abc", 4, '"ab…'),
        ("abc", 1, "…"),
        ("abc", -3, "…"),
    ],
)
def test_a_brief_text_ends_with_an_ellipsis_if_there_is_more(value, limit, text):
    assert brief(value, limit) == text


class Endless(dict):
    """A document that is never read to its end."""

    def items(self):
        n = 0
        while True:
            n += 1
            yield f"k{n}", [n]


@pytest.mark.parametrize(
    "value",
    [
        Endless(),
        "x" * 20_000_000,
        "\u202e" * 20_000_000,
        b"x" * 20_000_000,
        Regex("x" * 20_000_000),
        Code("x" * 20_000_000),
        [[]] * 2_000_000,
        {"k" * 20_000_000: 1},
    ],
    ids=["keys", "text", "escapes", "bytes", "regex", "code", "list", "a key"],
)
def test_a_value_costs_no_more_than_its_shown_part(value):
    start = time.process_time()
    assert lines(value, 1000).is_cut
    assert len(brief(value)) <= 120
    assert time.process_time() - start < 0.3
    assert len(lines(value).html) < 64_000 * 10


@pytest.mark.parametrize("wrap", [lambda v: {"a": v}, lambda v: [v]])
@pytest.mark.parametrize("levels", [150, 1500])
def test_a_value_of_any_depth_is_shown(wrap, levels):
    value = nested(levels, "bottom", wrap)
    assert '"bottom"' in text_of(value, 10**9)
    assert '"bottom"' in brief(value, 10**6)
