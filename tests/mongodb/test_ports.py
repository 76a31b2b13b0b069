"""The two faces: they are alike, and how the blocking one is driven."""

import ast
import asyncio
import inspect

import bson
import pytest

from ossy_event_store import Aggregate, AggregateRebuild, EventStore, Mongo
from ossy_event_store.mongodb import connection, ports
from ossy_event_store.mongodb.awaitable_port import AwaitableClient, AwaitableCollection
from ossy_event_store.mongodb.blocking_port import BlockingClient, BlockingCollection
from ossy_event_store.mongodb.ports import bytes_of, drive, drive_each

pytestmark = pytest.mark.versions

PAIRS = [
    (BlockingCollection, AwaitableCollection),
    (BlockingClient, AwaitableClient),
]
# Where the twins are meant to differ.
DIFFERENT = {
    ("BlockingClient", "either"): "it chooses between the faces",
    ("BlockingClient", "pause"): "sleeping is another call in a loop",
    ("BlockingClient", "meanwhile"): "a thread here, a task there",
    ("BlockingClient", "end_transaction"): "so is running in a context of its own",
}

WITHOUT_ASYNC = {
    ast.AsyncFor: ast.For,
    ast.AsyncWith: ast.With,
    ast.AsyncFunctionDef: ast.FunctionDef,
}


class WithoutAwait(ast.NodeTransformer):
    def visit(self, node):
        node = super().visit(node)
        if isinstance(node, ast.Await):
            return node.value
        if type(node) in WITHOUT_ASYNC:
            return WITHOUT_ASYNC[type(node)](**dict(ast.iter_fields(node)))
        return node


def shape(source):
    """Return the body of a method without ``await``, types and docstring."""
    tree = ast.parse(inspect.cleandoc("\n" + source)).body[0]
    method = WithoutAwait().visit(tree)
    body = method.body[ast.get_docstring(method) is not None :]
    arguments = [argument.arg for argument in method.args.args]
    return arguments, [ast.dump(statement) for statement in body]


def source_of(method):
    return inspect.cleandoc("\n" + inspect.getsource(method))


@pytest.mark.parametrize(("blocking", "awaitable"), PAIRS)
def test_the_faces_differ_by_await_alone(blocking, awaitable):
    names = [n for n, value in vars(blocking).items() if inspect.isfunction(value)]
    assert names == [n for n, v in vars(awaitable).items() if inspect.isfunction(v)]
    for name in names:
        if name != "__init__" and (blocking.__name__, name) not in DIFFERENT:
            one = shape(source_of(getattr(blocking, name)))
            other = shape(source_of(getattr(awaitable, name)))
            assert one == other, name


def test_a_face_that_forgets_something_is_noticed():
    one = "async def save(self, d):\n    return self.raw.replace(d, upsert=True)"
    other = "async def save(self, d):\n    return await self.raw.replace(d)"
    assert shape(one) != shape(other)
    assert shape(one) == shape(one.replace("self.raw", "await self.raw"))


# No I/O, or an attribute on one face and a coroutine on the other.
ONE_FACE = {
    "Aggregate": {"view", "validate"},
    "AggregateRebuild": {"register_aggregate"},
    "EventStore": {"query"},
}


@pytest.mark.parametrize("cls", [Aggregate, EventStore, AggregateRebuild, Mongo])
def test_every_method_has_an_awaitable_twin_with_the_same_arguments(cls):
    public = {n for n in dir(cls) if not n.startswith("_")}
    methods = {n for n in public if inspect.isroutine(getattr(cls, n))}
    methods -= ONE_FACE.get(cls.__name__, set())
    blocking = {n for n in methods if not (n[0] == "a" and n[1:] in public)}
    assert blocking
    for name in blocking:
        twin = getattr(cls, f"a{name}")
        assert arguments(getattr(cls, name)) == arguments(twin), name


def arguments(method):
    """Return what the arguments are, as the blocking face has them."""
    return [
        (one.name, one.kind, one.default, of_blocking_face(str(one.annotation)))
        for one in inspect.signature(method).parameters.values()
    ]


def of_blocking_face(annotation):
    annotation = annotation.replace("AsyncClientSession", "ClientSession")
    return annotation.replace("Coroutine[Any, Any, T]", "T")


def test_drive_runs_a_coroutine_to_its_end():
    async def inner():
        return 2

    async def outer():
        return await inner() + 1

    assert drive(outer()) == 3


def test_drive_raises_the_error_of_a_coroutine():
    async def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        drive(fails())


def test_drive_refuses_a_coroutine_that_waits_for_a_loop():
    async def waits():
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="tried to wait for an event loop"):
        drive(waits())


def test_a_generator_is_closed_when_its_reader_leaves():
    closed = []

    async def numbers():
        try:
            for number in range(10):
                yield number
        finally:
            closed.append(True)

    for number in drive_each(numbers()):
        if number == 2:
            break
    assert closed == [True]
    assert list(drive_each(numbers())) == list(range(10))


# --- batches


@pytest.fixture
def documents(store):
    """A collection of 100 documents, of about 1,000 bytes each."""
    raw = connection.raw(store.events).database["scratch"]
    raw.drop()
    raw.insert_many({"_id": n, "text": "x" * 1000} for n in range(100))
    yield BlockingCollection(raw)
    raw.drop()


@pytest.mark.parametrize("size", [7, 30, 1000])
@pytest.mark.parametrize("piece", [1, 5000, 10**9])
def test_batches_are_decoded_in_pieces(documents, monkeypatch, size, piece):
    monkeypatch.setattr(ports, "PIECE_BYTES", piece)
    found = list(drive_each(documents.batches({}, size, sort=[("_id", 1)])))
    assert [one["_id"] for batch in found for one in batch] == list(range(100))
    least = len(bson.encode({"_id": 0, "text": "x" * 1000}))
    assert max(map(len, found)) == min(size, max(1, -(-piece // least)), 100)
    assert sum(map(bytes_of, found)) == 100 * least


def test_the_bytes_of_a_list_that_was_not_raw_are_unknown():
    assert bytes_of([{"a": 1}]) == 0


# --- work meanwhile


@pytest.fixture(params=["blocking", "awaitable"])
def meanwhile(request):
    """Run a coroutine function with a face's ``meanwhile``."""
    if request.param == "blocking":
        return lambda main: drive(main(BlockingClient(None).meanwhile))
    return lambda main: asyncio.run(main(AwaitableClient(None).meanwhile))


async def seven():
    return 7


async def broken():
    raise KeyError("x")


def test_work_runs_meanwhile_and_is_done_after_the_block(meanwhile):
    async def main(meanwhile):
        async with meanwhile(seven()) as work:
            pass
        return work.result()

    assert meanwhile(main) == 7


def test_the_result_of_work_raises_its_error(meanwhile):
    async def main(meanwhile):
        async with meanwhile(broken()) as work:
            pass
        with pytest.raises(KeyError):
            work.result()

    meanwhile(main)


def test_an_error_in_the_block_is_raised(meanwhile):
    async def main(meanwhile):
        async with meanwhile(broken()):
            raise ValueError("beside it")

    with pytest.raises(ValueError, match="beside it"):
        meanwhile(main)
