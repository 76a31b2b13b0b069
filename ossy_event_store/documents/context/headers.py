"""
What comes in the headers of a request, from anybody: checked, bounded, or left out.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

MAX_ID_LENGTH = 128

_ID = re.compile(rf"[\w\-.:+/=]{{1,{MAX_ID_LENGTH}}}", re.ASCII)
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def id_of(header: Any) -> str | None:
    """Return the id in a header such as ``X-Correlation-ID``; None if it is none."""
    if isinstance(header, str) and _ID.fullmatch(header):
        return str(header)
    return None


def traceparent_of(header: Any) -> str | None:
    """
    Return a valid ``traceparent``, or None.

    That is version 00 of W3C Trace Context: 55 characters, and neither id is zero.
    """
    found = _TRACEPARENT.fullmatch(header) if isinstance(header, str) else None
    if found is None or not (int(found[1], 16) and int(found[2], 16)):
        return None
    return str(header)


def trace_id_of(traceparent: str) -> str:
    """Return the trace id of a valid ``traceparent``."""
    return traceparent[3:35]


def network_of(address: Any) -> str | None:
    """
    Return the network of an address, ``/24`` or for IPv6 ``/48``; None without one.

    A proxy or a Unix socket may leave anything there.
    """
    try:
        found = ipaddress.ip_address(str(address).partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    bits = 24 if found.version == 4 else 48
    return str(ipaddress.ip_network((found, bits), strict=False))
