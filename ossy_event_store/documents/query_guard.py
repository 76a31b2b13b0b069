"""
The guard of filters and pipelines: the store runs those that only read, without code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bson
from bson.errors import BSONError

from ..exceptions import InvalidQuery
from .arguments import check_items
from .bson_types import CODEC
from .collections import EVENTS, SNAPSHOTS
from .storable import COPY, Unstorable, stored_mapping

STAGES = frozenset(
    (
        "$addFields",
        "$bucket",
        "$bucketAuto",
        "$count",
        "$densify",
        "$facet",
        "$fill",
        "$graphLookup",
        "$group",
        "$limit",
        "$lookup",
        "$match",
        "$project",
        "$redact",
        "$replaceRoot",
        "$replaceWith",
        "$sample",
        "$set",
        "$setWindowFields",
        "$skip",
        "$sort",
        "$sortByCount",
        "$unionWith",
        "$unset",
        "$unwind",
    )
)
RUN_CODE = frozenset(("$accumulator", "$function", "$where"))
OWN_COLLECTIONS = (EVENTS, SNAPSHOTS)


def check_query(query: object, path: str = "query") -> Mapping[str, Any]:
    """
    Return ``query`` if it is a filter without code, and MongoDB can hold its values.

    Raises:
        InvalidQuery: with the path of the operator or value.
    """
    if not isinstance(query, Mapping):
        raise InvalidQuery(path, f"must be a dict, not {type(query).__name__}")
    for where, key in _keys(query, path):
        if key in RUN_CODE or str(key).startswith("$_internal"):
            raise InvalidQuery(where, "must not run code on the server")
    try:
        bson.encode(stored_mapping(query, COPY), codec_options=CODEC)
    except Unstorable as error:
        raise InvalidQuery(f"{path}.{error.path}", error.reason) from None
    except (BSONError, ValueError, OverflowError) as error:
        raise InvalidQuery(path, str(error)) from None  # a malformed value of BSON's
    return query


def check_sort(sort: object, path: str = "sort") -> list[tuple[str, int]] | None:
    """
    Return the pairs of a sort, each a field and 1 or -1; None means no order.

    Raises:
        InvalidQuery: with the path of the pair.
    """
    if sort is None:
        return None
    try:
        pairs = check_items(sort, path, 'pairs, as [("created", -1)]')
    except TypeError as error:
        raise InvalidQuery("", str(error)) from None
    for index, pair in enumerate(pairs):
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
        if not is_pair or type(pair[1]) is not int or abs(pair[1]) != 1:
            where = f"{path}[{index}]"
            raise InvalidQuery(where, 'must be a pair, such as ("created", -1)')
        check_query({pair[0]: 1}, path)
    return [(field, direction) for field, direction in pairs]


def check_pipeline(pipeline: object, path: str = "pipeline") -> Sequence[Any]:
    """
    Return ``pipeline`` if all its stages, nested ones included, only read the store.

    Raises:
        InvalidQuery: with the path of the stage.
    """
    if not isinstance(pipeline, Sequence) or isinstance(pipeline, (str, bytes)):
        raise InvalidQuery(path, f"must be a list, not {type(pipeline).__name__}")
    for index, stage in enumerate(pipeline):
        where = f"{path}[{index}]"
        if not isinstance(stage, Mapping) or len(stage) != 1:
            raise InvalidQuery(where, "a stage must be a dict with one key")
        ((name, body),) = stage.items()
        if name not in STAGES:
            raise InvalidQuery(f"{where}.{name}", "only stages that read are allowed")
        check_query(stage, where)
        _check_body(name, body, f"{where}.{name}")
    return list(pipeline)


def _check_body(name: str, body: Any, path: str) -> None:
    if name == "$facet" and isinstance(body, Mapping):
        for facet, nested in body.items():
            check_pipeline(nested, f"{path}.{facet}")
    if name in ("$lookup", "$graphLookup", "$unionWith"):
        body = {"coll": body} if isinstance(body, str) else body
        if not isinstance(body, Mapping):
            raise InvalidQuery(path, "must be a dict")
        for source in (body[key] for key in ("coll", "from") if key in body):
            if source not in OWN_COLLECTIONS:
                own = " and ".join(OWN_COLLECTIONS)
                raise InvalidQuery(path, f"reads {source!r}; only {own} are allowed")
        if "pipeline" in body:
            check_pipeline(body["pipeline"], f"{path}.pipeline")


def _keys(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Yield every key below ``value``, each with its path."""
    pending = [(value, path)]
    while pending:
        value, path = pending.pop()
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield f"{path}.{key}", key
                pending.append((item, f"{path}.{key}"))
        elif isinstance(value, (list, tuple)):
            pending += [(item, f"{path}[{i}]") for i, item in enumerate(value)]
