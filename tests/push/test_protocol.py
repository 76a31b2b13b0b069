"""The wire format of server-sent events."""

import pytest

from ossy_event_store.push import protocol


def test_a_message_is_an_id_and_one_line_of_json():
    text = protocol.message(7, {"type": "Lent\nid: 8\n\n", "raw": b"\n"}).decode()
    assert text == (
        'id: 7\ndata: {"type":"Lent\\nid: 8\\n\\n",'
        '"raw":{"$binary":{"base64":"Cg==","subType":"00"}}}\n\n'
    )


def test_only_a_reset_has_a_name():
    assert protocol.reset(7) == b'event: reset\nid: 7\ndata: {"position":7}\n\n'


def test_what_is_no_message_has_no_data():
    assert protocol.id_alone(7) == b"id: 7\n\n"
    assert protocol.retry_after(1.5) == b"retry: 1500\n\n"
    assert protocol.HEARTBEAT == b":\n\n"


@pytest.mark.parametrize(
    ("header", "parameter", "position"),
    [
        (None, None, None),
        ("", "", None),
        (None, "5", 5),
        ("", "5", 5),
        ("7", "5", 7),
        ("0", None, 0),
        ("9" * 18, None, 10**18 - 1),
    ],
)
def test_the_header_is_newer_than_the_parameter(header, parameter, position):
    assert protocol.last_position(header, parameter) == position


@pytest.mark.parametrize("text", ["x", "-1", "9" * 19, "٣", "1\n", " 1", "1.0"])
def test_what_is_no_position_is_refused(text):
    for arguments in ((text, None), (None, text)):
        with pytest.raises(ValueError, match="must be the position of an event"):
            protocol.last_position(*arguments)
