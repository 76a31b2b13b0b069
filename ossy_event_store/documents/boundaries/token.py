"""
Tokens: what a reader of a boundary knew, as a short string that fits into a form.

For each guard of the query a token has the name that was chosen, and how many events it
had. A digest binds that to the query and the store.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...exceptions import InvalidBoundary
from ..arguments import LARGEST
from .query import Guard, Query

_FORMAT = "b1"
_DIGEST_BYTES = 8
_PATH = "after"
_HINT = "read the boundary again, and use its token"


@dataclass(frozen=True)
class Known:
    """What is known of a guard: the events up to ``number`` in ``name``."""

    name: str
    number: int


def encode(
    query: Query, guards: Sequence[Guard], known: Sequence[Known], store: str
) -> str:
    """
    Return the token of what is known of each guard.

    Args:
        query: the query that was read.
        guards: those of the query.
        known: for each guard, one of its names, and a number.
        store: the name of the database.
    """
    numbers: list[int] = []
    for guard, one in zip(guards, known, strict=True):
        numbers += [guard.names.index(one.name), one.number]
    body = b"".join(map(_varint, numbers))
    text = base64.urlsafe_b64encode(_digest(query, body, store) + body)
    return _FORMAT + text.rstrip(b"=").decode()


def check_token(token: str) -> str:
    """
    Return a string that can be a token.

    Raises:
        InvalidBoundary: it cannot.
    """
    if not token.startswith(_FORMAT) or not token.isascii():
        raise InvalidBoundary(_PATH, f"not a token; {_HINT}")
    return token


def decode(
    token: str, query: Query, guards: Sequence[Guard], store: str
) -> list[Known]:
    """
    Return what a token says of each guard.

    Raises:
        InvalidBoundary: it is no token, or that of another query or store.
    """
    text = check_token(token).removeprefix(_FORMAT)
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if digest != _digest(query, body, store):
            reason = f"the token of another query or store; {_HINT}"
            raise InvalidBoundary(_PATH, reason)
        numbers = list(_numbers(body))
        pairs = zip(guards, numbers[::2], numbers[1::2], strict=True)
        return [Known(guard.names[index], number) for guard, index, number in pairs]
    except InvalidBoundary:
        raise
    except (ValueError, IndexError, binascii.Error):
        raise InvalidBoundary(_PATH, f"not a token; {_HINT}") from None


def _digest(query: Query, body: bytes, store: str) -> bytes:
    items: list[Any] = [[one.types, one.tags] for one in query.items]
    text = json.dumps([store, items]).encode() + body
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()


def _varint(number: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _numbers(body: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in body:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte & 0x80:
            continue
        if number > LARGEST:
            raise ValueError
        yield number
        number = shift = 0
    if shift:
        raise ValueError
