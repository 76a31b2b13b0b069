"""
Ids as a part of a page's address, and back.

Django's ``quote()`` encodes what an address would give a meaning, but not the dots: a
browser takes ``/../`` for the folder above, and a stream may be called ``..``.
"""

from __future__ import annotations

from django.contrib.admin import utils

_DOT = "_2E"  # ``quote()`` itself encodes each underscore, so no id contains it


def in_address(value: object) -> str:
    """Return an id as one part of an address."""
    text = utils.quote(str(value))
    return text.replace(".", _DOT) if text in (".", "..") else text


def from_address(part: str) -> str:
    """Return the id that is a part of an address."""
    return utils.unquote(part.replace(_DOT, "."))
