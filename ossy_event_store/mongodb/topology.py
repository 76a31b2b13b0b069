"""
What the driver knows of the servers: whether they form a set, and let us in; and what
they get to know of us.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from pymongo import AsyncMongoClient, MongoClient
from pymongo.driver_info import DriverInfo
from pymongo.errors import OperationFailure

from ..documents.bson_types import Document
from ..exceptions import StoreUnavailable
from .write_errors import LOGIN_REFUSED, short_reason


@cache
def driver_info() -> DriverInfo:
    """Return the name and version that servers put into their logs."""
    # Once a process: the look-up reads every folder of the path, and keeps what it
    # found each time that one of them has changed.
    try:
        version = metadata.version("ossy-event-store")
    except metadata.PackageNotFoundError:  # a copy inside a project, not installed
        version = None
    return DriverInfo("ossy-event-store", version)


def is_standalone(hello: Mapping[str, Any]) -> bool:
    """
    Whether a server is alone: it then has neither change streams nor transactions.

    Args:
        hello: its answer to the command ``hello``.
    """
    return "setName" not in hello and hello.get("msg") != "isdbgrid"


def raise_if_refused(
    client: MongoClient[Document] | AsyncMongoClient[Document],
) -> None:
    """
    Raise at once while the driver knows that the server refused our credentials.

    The driver takes a server that refused them for one that is away, until the monitor
    hears of it again, which takes ten seconds: longer than most calls can wait.
    """
    topology = client.topology_description
    for server in topology.server_descriptions().values():
        error = server.error
        if (
            isinstance(error, OperationFailure)
            and error.code in LOGIN_REFUSED
            and not topology.has_writable_server()
        ):
            raise StoreUnavailable(short_reason(error)) from error
