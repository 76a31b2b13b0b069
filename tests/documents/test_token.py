"""Tokens: what was known of each guard of a query."""

import base64

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ossy_event_store import InvalidBoundary, any_of, item
from ossy_event_store.documents.arguments import LARGEST
from ossy_event_store.documents.boundaries.token import Known, decode, encode

QUERY = any_of(item(tags=["x", "y"]), item("A", tags=["z"]), item("B"))
GUARDS = QUERY.guards(["B"])


def known(choice, numbers):
    return [
        Known(guard.names[choice % len(guard.names)], number)
        for guard, number in zip(GUARDS, numbers, strict=True)
    ]


NUMBERS = st.lists(st.integers(0, LARGEST), min_size=len(GUARDS), max_size=len(GUARDS))


@given(st.integers(0, 1), NUMBERS)
def test_a_token_says_what_was_known(choice, numbers):
    one = known(choice, numbers)
    token = encode(QUERY, GUARDS, one, "db")
    assert decode(token, QUERY, GUARDS, "db") == one
    assert token.isascii()
    assert token.replace("-", "").replace("_", "").isalnum()


TOKEN = encode(QUERY, GUARDS, known(0, [1, 300, 7]), "db")


def test_a_token_is_of_one_store():
    with pytest.raises(InvalidBoundary, match="another query or store"):
        decode(TOKEN, QUERY, GUARDS, "other")


@pytest.mark.parametrize("other", [item(tags=["x", "y"]), item(tags=["x"])])
def test_a_token_is_of_one_query(other):
    with pytest.raises(InvalidBoundary, match="another query or store"):
        decode(TOKEN, other, other.guards([]), "db")


@given(
    st.text(max_size=40)
    | st.binary(max_size=40).map(
        lambda raw: "b1" + base64.urlsafe_b64encode(raw).decode().rstrip("=")
    )
)
def test_any_other_text_is_refused(text):
    with pytest.raises(InvalidBoundary, match="after: "):
        decode(text, QUERY, GUARDS, "db")


def raw(token):
    return base64.urlsafe_b64decode(token[2:] + "=" * (-len(token[2:]) % 4))


@given(st.integers(2, len(TOKEN) - 1), st.sampled_from("Ab0_-"))
def test_a_changed_token_is_refused(place, letter):
    changed = TOKEN[:place] + letter + TOKEN[place + 1 :]
    assume(raw(changed) != raw(TOKEN))  # the last letter has bits to spare
    with pytest.raises(InvalidBoundary):
        decode(changed, QUERY, GUARDS, "db")
