"""The examples of dcb.events as decision models, with a decision for each command."""

from ossy_event_store import Boundary, any_of, item

MOST_COURSES = 5
OTP_MINUTES = 60
GRACE_MINUTES = 10


class Refused(Exception):
    """What an example's rule says against a command."""


def event(kind, *tags, metadata=None, **payload):
    made = {"type": kind, "payload": payload}
    if tags:
        made["tags"] = list(dict.fromkeys(tags))
    return made if metadata is None else {**made, "metadata": metadata}


# --- course subscriptions ---------------------------------------------------


class Course(Boundary):
    query = any_of(
        item("CourseDefined", "CapacityChanged", tags=["course:{course}"]),
    )

    @staticmethod
    def view(events, saved_state):
        capacity = None
        for one in events:
            capacity = one["payload"]["capacity"]
        return capacity


class Subscription(Boundary):
    query = any_of(
        item(
            "CourseDefined", "CapacityChanged", "Subscribed", tags=["course:{course}"]
        ),
        item("Subscribed", tags=["student:{student}"]),
    )

    @staticmethod
    def view(events, saved_state):
        state = {"capacity": None, "subscriptions": []}
        for one in events:
            if one["type"] == "Subscribed":
                payload = one["payload"]
                state["subscriptions"].append((payload["course"], payload["student"]))
            else:
                state["capacity"] = one["payload"]["capacity"]
        return state


def course_defined(course, capacity):
    tags = [f"course:{course}"]
    return event("CourseDefined", *tags, course=course, capacity=capacity)


def capacity_changed(course, capacity):
    tags = [f"course:{course}"]
    return event("CapacityChanged", *tags, course=course, capacity=capacity)


def subscribed(course, student):
    tags = [f"course:{course}", f"student:{student}"]
    return event("Subscribed", *tags, course=course, student=student)


def define_course(course, capacity):
    def decide(loaded):
        if loaded.view() is not None:
            raise Refused("exists")
        return course_defined(course, capacity)

    return Course(course=course), decide


def change_capacity(course, capacity):
    def decide(loaded):
        if loaded.view() is None:
            raise Refused("does not exist")
        if loaded.view() == capacity:
            raise Refused("same capacity")
        return capacity_changed(course, capacity)

    return Course(course=course), decide


def subscribe(course, student):
    def decide(loaded):
        state = loaded.view()
        of_course = [one for one in state["subscriptions"] if one[0] == course]
        of_student = [one for one in state["subscriptions"] if one[1] == student]
        if state["capacity"] is None:
            raise Refused("does not exist")
        if len(of_course) >= state["capacity"]:
            raise Refused("fully booked")
        if (course, student) in of_course:
            raise Refused("already subscribed")
        if len(of_student) >= MOST_COURSES:
            raise Refused("too many courses")
        return subscribed(course, student)

    return Subscription(course=course, student=student), decide


# --- unique username --------------------------------------------------------


class Username(Boundary):
    query = any_of(item(tags=["username:{name}"]))

    @staticmethod
    def view(events, saved_state):
        """Return the payload and age of the last event, which decides."""
        return [(e["type"], e["payload"], e["metadata"].get("daysAgo")) for e in events]


def registered(name, days=None):
    return event("Registered", f"username:{name}", metadata=_days(days), name=name)


def closed(name, days=None):
    return event("Closed", f"username:{name}", metadata=_days(days), name=name)


def renamed(old, new, days=None):
    tags = [f"username:{old}", f"username:{new}"]
    return event("Renamed", *tags, metadata=_days(days), old=old, new=new)


def _days(days):
    return None if days is None else {"daysAgo": days}


def register(name, retention=None):
    def is_kept(days):
        return retention is not None and days is not None and days <= retention

    def decide(loaded):
        is_claimed = False
        for kind, payload, days in loaded.view():
            if kind == "Registered":
                is_claimed = True
            elif kind == "Closed":
                is_claimed = is_kept(days)
            else:
                is_claimed = payload["new"] == name or is_kept(days)
        if is_claimed:
            raise Refused("claimed")
        return registered(name)

    return Username(name=name), decide


# --- invoice number ---------------------------------------------------------


class Invoices(Boundary):
    query = any_of(item("InvoiceCreated"))

    @staticmethod
    def view(events, saved_state):
        return max((one["payload"]["number"] for one in events), default=0)


def invoice_created(number):
    stream = {"aggregateId": f"invoice-{number}", "aggregateType": "Invoice"}
    return {**event("InvoiceCreated", number=number), **stream}


def create_invoice():
    return Invoices(), lambda loaded: invoice_created(loaded.view() + 1)


# --- opt-in token -----------------------------------------------------------


class SignUp(Boundary):
    query = any_of(item(tags=["email:{email}", "otp:{otp}"]))

    @staticmethod
    def view(events, saved_state):
        state = {}
        for one in events:
            if one["type"] == "SignUpInitiated":
                age = one["metadata"].get("minutesAgo", 0)
                state = {"name": one["payload"]["name"], "age": age, "used": False}
            else:
                state["used"] = True
        return state


def initiated(email, otp, name, minutes=None):
    metadata = None if minutes is None else {"minutesAgo": minutes}
    tags = [f"email:{email}", f"otp:{otp}"]
    return event(
        "SignUpInitiated", *tags, metadata=metadata, email=email, otp=otp, name=name
    )


def confirmed(email, otp, name):
    tags = [f"email:{email}", f"otp:{otp}"]
    return event("SignUpConfirmed", *tags, email=email, otp=otp, name=name)


def confirm(email, otp):
    def decide(loaded):
        state = loaded.view()
        if not state:
            raise Refused("not pending")
        if state["used"]:
            raise Refused("used")
        if state["age"] > OTP_MINUTES:
            raise Refused("expired")
        return confirmed(email, otp, state["name"])

    return SignUp(email=email, otp=otp), decide


# --- record duplication -----------------------------------------------------


class Submission(Boundary):
    query = any_of(item("OrderPlaced", tags=["idempotency:{token}"]))
    view = staticmethod(lambda events, saved_state: bool(events))


def order_placed(order, token):
    tags = [f"order:{order}", f"idempotency:{token}"]
    return event("OrderPlaced", *tags, order=order, token=token)


def place_order(order, token):
    def decide(loaded):
        if loaded.view():
            raise Refused("submitted already")
        return order_placed(order, token)

    return Submission(token=token), decide


# --- dynamic product price --------------------------------------------------


class Prices(Boundary):
    @staticmethod
    def query(products):
        kinds = ("ProductDefined", "PriceChanged")
        return any_of(*(item(*kinds, tags=[f"product:{p}"]) for p in products))

    @staticmethod
    def view(events, saved_state):
        history = {}
        for one in events:
            payload = one["payload"]
            history.setdefault(payload["product"], []).append(
                (payload["price"], payload["at"])
            )
        return history


def product_defined(product, price, at):
    tags = [f"product:{product}"]
    return event("ProductDefined", *tags, product=product, price=price, at=at)


def price_changed(product, price, at):
    tags = [f"product:{product}"]
    return event("PriceChanged", *tags, product=product, price=price, at=at)


def ordered(*cart):
    tags = [f"product:{product}" for product, _ in cart]
    return event("ProductsOrdered", *tags, cart=[list(one) for one in cart])


def valid_prices(history, now):
    valid = []
    for number, (price, at) in enumerate(history):
        is_recent = number and now - at <= GRACE_MINUTES
        valid = [*valid, price] if is_recent else [price]
    return valid


def order(*cart, now):
    def decide(loaded):
        history = loaded.view()
        for product, price in cart:
            if price not in valid_prices(history.get(product, []), now):
                raise Refused("price is not valid")
        return ordered(*cart)

    return Prices(products=[product for product, _ in cart]), decide
