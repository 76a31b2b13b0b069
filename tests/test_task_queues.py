"""The context goes with a task: the code of the page, in real queues."""

import sys
import types
from pathlib import Path

import django
import pytest

from ossy_event_store import EventStore, event_context
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.admin import NOT_ON_DJONGO
from tests.support.docs import blocks_of
from tests.support.servers import until
from tests.support.subscriptions import running

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("store", "quick")]

PAGE = Path(__file__).parent.parent / "docs/howto/who-did-it.md"


def module(name, **replaced):
    """Make a module of the page."""
    blocks = blocks_of(PAGE.read_text())
    (code,) = [block.text for block in blocks if block.file == name]
    for old, new in replaced.items():
        code = code.replace(old.replace("_", "."), new)
    made = types.ModuleType(f"page_{Path(name).stem}")
    sys.modules[made.__name__] = made
    exec(code, vars(made))
    return made


def noted(stream, kind="Noted"):
    event = {"type": kind, "aggregateId": stream, "aggregateType": "Reader"}
    return EventStore.append_event(event)


def _leave_logging_alone(**kwargs):
    pass


@pytest.fixture(scope="module")
def app():
    """An app of Celery with a worker in a thread, and a broker in memory."""
    celery = pytest.importorskip("celery")
    from celery import signals
    from celery.contrib.testing.worker import start_worker

    names = ("before_task_publish", "setup_logging", "task_prerun", "task_postrun")
    before = {name: list(getattr(signals, name).receivers or ()) for name in names}
    # Else the worker sets the level of the root logger, for all later tests too.
    signals.setup_logging.connect(_leave_logging_alone)
    kept = module("mysite/celery_context.py")
    app = celery.Celery("page", broker="memory://", backend="cache+memory://")
    app.conf.update(broker_connection_retry=False)
    app.conf.broker_transport_options = {"polling_interval": 0.02}
    app.kept = kept  # signals only refer to it weakly

    @app.task(bind=True, max_retries=1, name="note", shared=False)
    def note(task, stream, fails=False):
        noted(stream)
        if fails and not task.request.retries:
            raise task.retry(countdown=0)
        return stream

    app.note = note
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
        yield app
    for name, receivers in before.items():
        getattr(signals, name).receivers = receivers


def test_a_celery_task_has_the_context_of_what_sent_it(app):
    cause = noted("cause")
    with event_context(createdBy="ann", correlationId="c"):
        app.note.delay("by ann")
        app.send_task("note", ["again", True])
        (app.note.s("chain-1") | app.note.si("chain-2")).apply_async()
        app.note.apply(("eager",))
    with event_context.of(cause):
        app.note.delay("caused")
    app.note.delay("alone")
    until(lambda: EventStore.count() == 9)
    for stream in ("by ann", "again", "chain-1", "chain-2", "eager"):
        for event in EventStore.get_event_stream(stream):
            assert (event["createdBy"], event["metadata"]) == (
                "ann",
                {"correlationId": "c"},
            )
    assert EventStore.count("again") == 2
    (caused,) = EventStore.get_event_stream("caused")
    assert caused["metadata"]["causationId"] == str(cause["_id"])
    (alone,) = EventStore.get_event_stream("alone")
    assert (alone["createdBy"], alone["metadata"]) == (None, {})
    assert app.kept.entered == {}


def test_from_a_request_over_handlers_and_a_task_it_is_one_tree(app):
    @subscription("first", types=["Asked"])
    def first(event):
        noted("b", "Granted")

    @subscription("second", types=["Granted"])
    def second(event):
        app.note.delay("c")

    @subscription("third", types=["Noted"])
    async def third(event):
        new = {"type": "Mailed", "aggregateId": "d", "aggregateType": "Reader"}
        await EventStore.aappend_event(new)

    @subscription("fourth", types=["Mailed"])
    def fourth(event):
        noted("e", "Filed")

    with event_context(createdBy="ann", correlationId="request-1"):
        asked = noted("a", "Asked")
    with running():
        until(lambda: EventStore.exists("e"))
    kinds = ["Asked", "Granted", "Noted", "Mailed", "Filed"]
    trace = EventStore.trace("request-1")
    assert (trace.depth, trace.is_cut) == (5, False)
    (filed,) = EventStore.get_event_stream("e")
    for found in (trace, EventStore.effects(asked["_id"])):
        walked = [(depth, node.event["type"]) for depth, node in found.walk()]
        assert walked == list(enumerate(kinds, 1))
    chain = [event["type"] for event in EventStore.causes(filed["_id"]).events]
    assert chain == kinds[-2::-1]


@NOT_ON_DJONGO
@pytest.mark.django_db
def test_a_task_of_django_has_the_context_of_what_enqueued_it(settings):
    backend = "django_tasks.backends.immediate.ImmediateBackend"
    if django.VERSION < (6, 0):
        pytest.importorskip("django_tasks")
        tasks = module("library/tasks.py", django_tasks="django_tasks")
    else:
        backend = backend.replace("django_tasks", "django.tasks")
        tasks = module("library/tasks.py")
    settings.TASKS = {"default": {"BACKEND": backend}}
    with event_context(createdBy="ann", correlationId="c"):
        carried = event_context.carry()
    with event_context(createdBy="worker"):
        tasks.remind.enqueue("book-1", context=carried)
    (event,) = EventStore.get_event_stream("book-1")
    assert (event["createdBy"], event["metadata"]) == ("ann", {"correlationId": "c"})
