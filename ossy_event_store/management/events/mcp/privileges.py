"""
What the user of MongoDB may do besides reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ....mongodb.connection import Store, database_name

# What reads, and what concerns only the connection itself.
_READS = frozenset(
    (
        *("find", "changeStream", "listCollections", "listIndexes", "listDatabases"),
        *("collStats", "dbStats", "dbHash", "indexStats", "planCacheRead"),
        *("listSearchIndexes", "killCursors", "killAnyCursor", "getDefaultRWConcern"),
        *("serverStatus", "connPoolStats", "replSetGetStatus", "top", "getParameter"),
        *("listSessions", "listShards", "getShardMap", "useUUID", "viewUser"),
        *("viewRole", "querySettings", "validate"),
    )
)


async def writes_of(store: Store) -> list[str] | None:
    """
    Return what the user may do in the store's database besides reading it.

    Returns:
        The actions, each as ``insert on eventstore``; None if the server knows no user,
        so that anybody may do everything.
    """
    status = await store.events.database_command(
        "connectionStatus", showPrivileges=True
    )
    info = status["authInfo"]
    if not info["authenticatedUsers"]:
        return None
    name = database_name(store)
    found = _writes(info.get("authenticatedUserPrivileges", ()), name)
    return list(dict.fromkeys(found))


def _writes(privileges: Any, database: str) -> Iterator[str]:
    for privilege in privileges:
        resource: Mapping[str, Any] = privilege["resource"]
        is_of_another = resource.get("db", database) not in ("", database)
        if is_of_another:
            continue
        where = resource.get("collection") or (
            "the server" if resource.get("cluster") else "every collection"
        )
        for action in privilege["actions"]:
            if action not in _READS:
                yield f"{action} on {where}"
