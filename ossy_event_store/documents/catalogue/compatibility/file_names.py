"""Names of files for event types: safe on every system, and different for each."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

_LONGEST = 100  # characters of a name, before version and suffix
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
# Devices of Windows, under any suffix.
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)")


def file_names(types: Iterable[str]) -> dict[str, str]:
    """
    Return a file name for each event type, without a suffix.

    Other characters than letters, digits, ``_`` and ``-`` are written as ``%`` and two
    hex digits, so no name leads out of a folder. A name that is too long, or differs
    from another only in case, ends in a hash.
    """
    names = {name: _spelled(name) for name in types}
    shared = Counter(spelled.lower() for spelled in names.values())
    return {
        name: spelled
        if shared[spelled.lower()] == 1 and _is_usable(spelled)
        else f"{spelled[:_LONGEST]}~{_hash(name)}"
        for name, spelled in names.items()
    }


def _spelled(name: str) -> str:
    escaped = _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], name.encode())
    return escaped.decode()


def _is_usable(spelled: str) -> bool:
    return len(spelled) <= _LONGEST and not _DEVICE.fullmatch(spelled)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
