"""A lending library: the domain that the tests share."""

from ossy_event_store import register_aggregate


class Book:
    aggregate_type = "Book"

    @staticmethod
    def view(events, saved_state):
        state = {"loans": 0, **saved_state}
        for event in events:
            if event["type"] == "BookBought":
                state["title"] = event["payload"].get("title")
            elif event["type"] == "BookLent":
                state["lent_to"] = event["payload"]["to"]
                state["loans"] += 1
            elif event["type"] == "BookReturned":
                state["lent_to"] = None
        return state


Aggregate = Book
id = "Book"  # noqa: A001 - the name that the npm package uses


@register_aggregate
class Reader:
    aggregate_type = "Reader"
    revision = "1"

    @classmethod
    def view(cls, events, saved_state):
        return {"events": saved_state.get("events", 0) + len(events)}
