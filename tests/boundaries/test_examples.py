"""The cases of the examples of dcb.events, in our words and through both faces."""

import pytest

from ossy_event_store import EventStore
from tests.boundaries.examples import (
    Refused,
    capacity_changed,
    change_capacity,
    closed,
    confirm,
    confirmed,
    course_defined,
    create_invoice,
    define_course,
    initiated,
    invoice_created,
    order,
    order_placed,
    ordered,
    place_order,
    price_changed,
    product_defined,
    register,
    registered,
    renamed,
    subscribe,
    subscribed,
)
from tests.support.boundaries import declared

JOHN = ("john.doe@example.com", "222222", "John Doe")
FIVE = [course_defined(f"c{n}", 10) for n in range(1, 7)]
FIVE += [subscribed(f"c{n}", "s1") for n in range(1, 6)]

# What happened before, the command, and the event or the refusal that it leads to.
CASES = {
    # course subscriptions
    "define a course whose id exists": (
        [course_defined("c1", 10)],
        define_course("c1", 15),
        Refused("exists"),
    ),
    "define a course": ([], define_course("c1", 15), course_defined("c1", 15)),
    "change the capacity of a course that does not exist": (
        [],
        change_capacity("c0", 15),
        Refused("does not exist"),
    ),
    "change a capacity": (
        [course_defined("c1", 12)],
        change_capacity("c1", 15),
        capacity_changed("c1", 15),
    ),
    "subscribe to a course that does not exist": (
        [],
        subscribe("c0", "s1"),
        Refused("does not exist"),
    ),
    "subscribe to a course that is fully booked": (
        [course_defined("c1", 3), *(subscribed("c1", f"s{n}") for n in (1, 2, 3))],
        subscribe("c1", "s4"),
        Refused("fully booked"),
    ),
    "subscribe twice": (
        [course_defined("c1", 10), subscribed("c1", "s1")],
        subscribe("c1", "s1"),
        Refused("already subscribed"),
    ),
    "subscribe to a sixth course": (
        FIVE,
        subscribe("c6", "s1"),
        Refused("too many courses"),
    ),
    "subscribe": (
        [course_defined("c1", 10)],
        subscribe("c1", "s1"),
        subscribed("c1", "s1"),
    ),
    # unique username
    "register a name that is taken": (
        [registered("u1")],
        register("u1"),
        Refused("claimed"),
    ),
    "register a name": ([], register("u1"), registered("u1")),
    "register the name of a closed account": (
        [registered("u1"), closed("u1")],
        register("u1"),
        registered("u1"),
    ),
    "register a name that was changed": (
        [registered("u1"), renamed("u1", "u2")],
        register("u1"),
        registered("u1"),
    ),
    "register a name to which another was changed": (
        [registered("u1"), renamed("u1", "u2")],
        register("u2"),
        Refused("claimed"),
    ),
    "register the name of an account that was closed lately": (
        [registered("u1", 4), closed("u1", 3)],
        register("u1", retention=3),
        Refused("claimed"),
    ),
    "register a name that was changed lately": (
        [registered("u1", 4), renamed("u1", "u2", 3)],
        register("u1", retention=3),
        Refused("claimed"),
    ),
    "register the name of an account that was closed long ago": (
        [registered("u1", 4), closed("u1", 4)],
        register("u1", retention=3),
        registered("u1"),
    ),
    "register a name that was changed long ago": (
        [registered("u1", 4), renamed("u1", "u2", 4)],
        register("u1", retention=3),
        registered("u1"),
    ),
    # invoice number
    "create the first invoice": ([], create_invoice(), invoice_created(1)),
    "create the next invoice": (
        [invoice_created(1)],
        create_invoice(),
        invoice_created(2),
    ),
    # opt-in token
    "confirm with a token that does not exist": (
        [],
        confirm("john.doe@example.com", "000000"),
        Refused("not pending"),
    ),
    "confirm with the token of another address": (
        [initiated(*JOHN)],
        confirm("jane.doe@example.com", "222222"),
        Refused("not pending"),
    ),
    "confirm with a token that was used": (
        [initiated(*JOHN), confirmed(*JOHN)],
        confirm(*JOHN[:2]),
        Refused("used"),
    ),
    "confirm": ([initiated(*JOHN)], confirm(*JOHN[:2]), confirmed(*JOHN)),
    "confirm with a token that has expired": (
        [initiated(*JOHN, minutes=61)],
        confirm(*JOHN[:2]),
        Refused("expired"),
    ),
    # record duplication
    "place an order twice": (
        [order_placed("o1", "11111")],
        place_order("o1", "11111"),
        Refused("submitted already"),
    ),
    "place an order": (
        [order_placed("o1", "11111")],
        place_order("o2", "22222"),
        order_placed("o2", "22222"),
    ),
    # dynamic product price: one product, a grace period, a cart
    "order at a price that is not shown": (
        [product_defined("p1", 123, 100)],
        order(("p1", 100), now=100),
        Refused("price is not valid"),
    ),
    "order at the price that is shown": (
        [product_defined("p1", 123, 100)],
        order(("p1", 123), now=100),
        ordered(("p1", 123)),
    ),
    "order at a price that never was": (
        [product_defined("p1", 123, 80)],
        order(("p1", 100), now=100),
        Refused("price is not valid"),
    ),
    "order at a price that changed long ago": (
        [product_defined("p1", 123, 80), price_changed("p1", 134, 80)],
        order(("p1", 123), now=100),
        Refused("price is not valid"),
    ),
    "order at the first price": (
        [product_defined("p1", 123, 80)],
        order(("p1", 123), now=100),
        ordered(("p1", 123)),
    ),
    "order at a price that changed lately": (
        [product_defined("p1", 123, 80), price_changed("p1", 134, 91)],
        order(("p1", 123), now=100),
        ordered(("p1", 123)),
    ),
    "order at the new price": (
        [product_defined("p1", 123, 80), price_changed("p1", 134, 91)],
        order(("p1", 134), now=100),
        ordered(("p1", 134)),
    ),
    "order a product that does not exist": (
        [],
        order(("p1", 123), now=100),
        Refused("price is not valid"),
    ),
    "order several products": (
        [
            product_defined("p1", 123, 80),
            price_changed("p1", 134, 91),
            product_defined("p2", 321, 92),
        ],
        order(("p1", 123), ("p2", 321), now=100),
        ordered(("p1", 123), ("p2", 321)),
    ),
    "order several products, one at a wrong price": (
        [product_defined("p1", 123, 80), product_defined("p2", 321, 92)],
        order(("p1", 123), ("p2", 320), now=100),
        Refused("price is not valid"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_command_leads_to_its_event_or_refusal(store, face, name):
    given, (boundary, decide), then = CASES[name]
    with declared("InvoiceCreated"):
        for one in given:
            EventStore.append_event(one)
        if isinstance(then, Refused):
            with pytest.raises(Refused, match=str(then)):
                face(EventStore.execute, boundary, decide)
            assert EventStore.count() == len(given)
            return
        loaded = face(EventStore.execute, boundary, decide)
        (appended,) = loaded.appended
        assert {name: appended[name] for name in then} == then
        assert EventStore.count() == len(given) + 1
