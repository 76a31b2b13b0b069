"""Weaker outboxes: the checker has to find out what is wrong with each."""

import copy
from contextlib import contextmanager

from ossy_event_store import EventStore
from ossy_event_store.documents.extended_json import dumps, loads
from ossy_event_store.relational import append_waiting, on_commit, outbox
from ossy_event_store.relational.models import Outbox


def append_in_the_transaction():
    def append(event, using="default"):
        return EventStore.append_event(event)["_id"]

    on_commit.append_on_commit = append


def delete_before_the_append():
    @contextmanager
    def claimed(using, number):
        row = outbox._firsts(using).filter(pk=number).first()
        outbox.rows(using).filter(pk=number).delete()
        yield row

    outbox.claimed = claimed


def new_id_for_each_try():
    append = append_waiting._append

    def append_as_another(row, seconds):
        event = loads(row.event)
        del event["id"]
        another = copy.copy(row)
        another.event = dumps(event)
        append(another, seconds)

    append_waiting._append = append_as_another


def any_row_is_the_first():
    outbox._firsts = lambda using: outbox.rows(using).filter(state=Outbox.State.WAITING)


# What the checker finds, by the variant that does it.
FINDS = {
    append_in_the_transaction: "phantom",
    delete_before_the_append: "lost",
    new_id_for_each_try: "twice",
    any_row_is_the_first: "out of order",
}


def install(name):
    """Replace the store's outbox by a variant; "" keeps it."""
    for variant in FINDS:
        if variant.__name__ == name:
            variant()
