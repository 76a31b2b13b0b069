"""Filters and pipelines: the store runs those that only read, without code."""

from types import MappingProxyType

import pytest
from bson import SON, Code

from ossy_event_store import EventStore
from ossy_event_store.documents.query_guard import (
    RUN_CODE,
    STAGES,
    check_pipeline,
    check_query,
)
from ossy_event_store.exceptions import InvalidQuery

FUNCTION = {"$function": {"body": "function() {}", "args": [], "lang": "js"}}
EMIT = {"$_internalJsEmit": {"eval": "function() { emit(1, 2) }", "this": "$$ROOT"}}
REDUCE = {
    "$_internalJsReduce": {"data": "$payload", "eval": "function(k, v) { return 42 }"}
}


def refusal(check, value):
    with pytest.raises(InvalidQuery) as caught:
        check(value)
    return caught.value


# Filters


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"type": "BookLent"},
        {"payload.title": {"$eq": "Emma"}},
        {"$or": [{"type": "a"}, {"$and": [{"type": {"$in": ["b"]}}]}]},
        {"$expr": {"$gt": ["$aggregateVersion", 3]}},
        {"payload": {"where": "function"}},
        {"payload.$wherever": 1},
        SON([("type", "a")]),
        MappingProxyType({"type": "a"}),
    ],
)
def test_a_filter_that_reads_is_run(query):
    assert check_query(query) is query


@pytest.mark.parametrize("query", [None, [], "type", 5, b"x", [("type", "a")]])
def test_a_filter_is_a_dict(query):
    error = refusal(check_query, query)
    assert error.path == "query"
    assert error.reason == f"must be a dict, not {type(query).__name__}"


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"$where": "true"}, "query.$where"),
        ({"$where": Code("true")}, "query.$where"),
        ({"$or": [{"a": 1}, {"$where": "1"}]}, "query.$or[1].$where"),
        ({"a": {"$not": {"$elemMatch": {"$where": "1"}}}}, ".$elemMatch.$where"),
        ({"$expr": FUNCTION}, "query.$expr.$function"),
        ({"$expr": {"$eq": [1, {"$add": [FUNCTION, 1]}]}}, "$add[0].$function"),
        ({"$expr": ({"$eq": (1, FUNCTION)},)}, "$function"),
        ({"$expr": SON([("$not", SON(FUNCTION))])}, "query.$expr.$not.$function"),
        ({"$expr": EMIT}, "query.$expr.$_internalJsEmit"),
        ({"$expr": {"$gt": [{"$size": [EMIT]}, 0]}}, "$_internalJsEmit"),
        ({"$expr": REDUCE}, "$_internalJsReduce"),
    ],
)
def test_a_filter_that_runs_code_is_refused_with_its_path(query, path):
    error = refusal(check_query, query)
    assert error.path.endswith(path)
    assert "must not run code" in error.reason


@pytest.mark.parametrize("method", ["find_event", "find_events"])
@pytest.mark.parametrize("query", [{"$where": "true"}, {"$expr": FUNCTION}])
def test_the_store_refuses_a_filter_that_runs_code(method, query):
    with pytest.raises(InvalidQuery):
        getattr(EventStore, method)(query)


def test_a_filter_of_any_depth_is_checked():
    query = {"$where": "1"}
    for _ in range(5000):
        query = {"$and": [query]}
    assert refusal(check_query, query).path.endswith("$where")


# Pipelines

PIPELINES = [
    [],
    [{"$match": {"type": "a"}}, {"$count": "n"}],
    ({"$limit": 1},),
    [{"$group": {"_id": "$type", "n": {"$sum": 1}}}, {"$sort": {"n": -1}}],
    [{"$facet": {"a": [{"$count": "n"}], "b": [{"$limit": 1}]}}],
    [{"$unionWith": "aggregates"}],
    [{"$unionWith": {"coll": "eventstore", "pipeline": [{"$limit": 1}]}}],
    [
        {
            "$lookup": {
                "from": "aggregates",
                "localField": "aggregateId",
                "foreignField": "_id",
                "as": "snapshot",
            }
        }
    ],
    [{"$lookup": {"from": "eventstore", "pipeline": [{"$limit": 1}], "as": "x"}}],
    [
        {
            "$graphLookup": {
                "from": "eventstore",
                "startWith": "$metadata.cause",
                "connectFromField": "metadata.cause",
                "connectToField": "_id",
                "as": "causes",
            }
        }
    ],
    [{"$setWindowFields": {"sortBy": {"created": 1}, "output": {}}}],
    [{"$replaceRoot": {"newRoot": "$payload"}}, {"$sample": {"size": 1}}],
]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=str)
def test_a_pipeline_that_reads_is_run(store, lend, pipeline):
    lend("b", "BookBought")
    assert isinstance(EventStore.aggregate(pipeline), list)


@pytest.mark.parametrize("pipeline", [None, {}, "x", b"x", 5, {"$match": {}}])
def test_a_pipeline_is_a_list(pipeline):
    error = refusal(check_pipeline, pipeline)
    assert error.path == "pipeline"
    assert error.reason.startswith("must be a list, not ")


@pytest.mark.parametrize(
    "stage", [None, "$match", [], {}, {"$match": {}, "$out": "x"}, {1: 2}]
)
def test_a_stage_is_a_dict_with_one_key(stage):
    assert refusal(check_pipeline, [{"$limit": 1}, stage]).path.startswith(
        "pipeline[1]"
    )


@pytest.mark.parametrize(
    "name",
    [
        "$out",
        "$merge",
        "$changeStream",
        "$collStats",
        "$currentOp",
        "$documents",
        "$indexStats",
        "$listLocalSessions",
        "$listSessions",
        "$planCacheStats",
        "$search",
        "$geoNear",
        "$match\x00",
        "match",
        "$Match",
        "$_internalInhibitOptimization",
        "$mergeCursors",
        "$queue",
    ],
)
def test_a_stage_that_does_not_only_read_the_store_is_refused(name):
    error = refusal(check_pipeline, [{name: {}}])
    assert error.path == f"pipeline[0].{name}"


@pytest.mark.parametrize(
    ("pipeline", "path"),
    [
        ([{"$facet": {"a": [{"$out": "x"}]}}], "pipeline[0].$facet.a[0].$out"),
        (
            [{"$unionWith": {"coll": "eventstore", "pipeline": [{"$merge": "x"}]}}],
            "pipeline[0].$unionWith.pipeline[0].$merge",
        ),
        (
            [{"$lookup": {"from": "aggregates", "pipeline": [{"$out": "x"}]}}],
            "pipeline[0].$lookup.pipeline[0].$out",
        ),
        (
            [{"$facet": {"a": [{"$lookup": {"pipeline": [{"$documents": []}]}}]}}],
            "$lookup.pipeline[0].$documents",
        ),
        ([{"$unionWith": {"pipeline": [{"$currentOp": {}}]}}], "$currentOp"),
        ([{"$facet": {"a": {"$out": "x"}}}], "pipeline[0].$facet.a"),
        ([{"$lookup": {"from": "aggregates", "pipeline": {"$out": 1}}}], "pipeline"),
    ],
)
def test_a_stage_inside_a_stage_is_refused_with_its_path(pipeline, path):
    assert refusal(check_pipeline, pipeline).path.endswith(path)


@pytest.mark.parametrize(
    "stage",
    [
        {"$match": {"$where": "1"}},
        {"$match": {"$expr": FUNCTION}},
        {"$project": {"a": FUNCTION}},
        {"$set": {"a": [{"b": FUNCTION}]}},
        {"$group": {"_id": None, "a": {"$accumulator": {}}}},
        {"$bucket": {"groupBy": "$a", "output": {"a": {"$accumulator": {}}}}},
        {"$lookup": {"from": "aggregates", "let": {"a": FUNCTION}, "pipeline": []}},
        {"$facet": {"a": [{"$project": {"a": FUNCTION}}]}},
        {"$project": {"a": EMIT}},
        {"$group": {"_id": None, "a": REDUCE}},
        {"$facet": {"a": [{"$set": {"a": {"$first": [EMIT]}}}]}},
    ],
    ids=str,
)
def test_a_pipeline_that_runs_code_is_refused(store, lend, stage):
    lend("b", "BookBought")
    with pytest.raises(InvalidQuery, match="must not run code"):
        EventStore.aggregate([stage])


@pytest.mark.parametrize(
    "stage",
    [
        {"$unionWith": "auth_user"},
        {"$unionWith": {"coll": "eventstore_leases"}},
        {"$unionWith": 5},
        {"$unionWith": None},
        {"$unionWith": ["eventstore"]},
        {"$lookup": {"from": "auth_user", "as": "x"}},
        {"$lookup": {"from": {"db": "admin", "coll": "eventstore"}, "as": "x"}},
        {"$lookup": {"coll": "eventstore", "from": "auth_user", "as": "x"}},
        {"$lookup": [{"from": "eventstore"}]},
        {"$graphLookup": {"from": "auth_user"}},
        {"$graphLookup": {"coll": "eventstore", "from": "auth_user"}},
        {"$unionWith": {"from": "eventstore", "coll": "auth_user"}},
        {"$facet": {"a": [{"$unionWith": "auth_user"}]}},
    ],
    ids=str,
)
def test_other_collections_are_not_read(stage):
    assert refusal(check_pipeline, [stage]).path.startswith("pipeline[0].")


def test_the_message_names_the_collections_that_may_be_read():
    error = refusal(check_pipeline, [{"$unionWith": "auth_user"}])
    assert (
        error.reason == "reads 'auth_user'; only eventstore and aggregates are allowed"
    )


def test_no_allowed_stage_runs_code():
    assert not STAGES & RUN_CODE
