"""Checks of a deployment: what is fine in development and not in production."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from pymongo.uri_parser import parse_uri

from ..mongodb.location import EMBEDDED, REFUSED, Source, resolve
from .messages import warning


def check_deployment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check for an embedded server, and for connections without TLS."""
    try:
        source = resolve()
    except ImproperlyConfigured:
        return []  # E002 says so
    if source.url.startswith(EMBEDDED):
        return [
            warning(
                "W006",
                "The event store runs on embedded://, a single server without "
                "authentication that stops when its last user stops.",
                "Set the URL of a replica set.",
            )
        ]
    remote = [host for host in _hosts_without_tls(source) if not _is_loopback(host)]
    if remote:
        return [
            warning(
                "W007",
                f"Events travel to {', '.join(remote)} without encryption.",
                "Add tls=true to the URL.",
            )
        ]
    return []


def _hosts_without_tls(source: Source) -> list[str]:
    """Return the hosts of a source that does not ask for TLS."""
    url, options = source.url, {k.lower(): v for k, v in source.options.items()}
    if source.alias and source.borrows:
        database = connections.settings[source.alias]
        url = str(database.get("HOST") or "localhost")
        options = {k.lower(): v for k, v in (database.get("OPTIONS") or {}).items()}
    tls = options.get("tls", options.get("ssl"))  # an option overrides the URL
    if tls:
        return []
    if url.startswith("mongodb+srv://"):
        # TLS is on unless switched off; only DNS knows the hosts.
        off = tls is False or re.search(r"[?&](tls|ssl)=false", url, re.IGNORECASE)
        return [url.partition("://")[2].rpartition("@")[2].split("/")[0]] if off else []
    try:
        parsed = parse_uri(url if "://" in url else f"mongodb://{url}")
    except REFUSED:
        return []
    if tls is None and parsed["options"].get("tls"):
        return []
    return [host for host, _ in parsed["nodelist"]]


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
