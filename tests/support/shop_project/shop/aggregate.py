from ossy_event_store import register_aggregate


@register_aggregate
class Book:
    aggregate_type = "Book"

    @staticmethod
    def view(events, saved_state):
        return {"lent": saved_state.get("lent", 0) + len(events)}
