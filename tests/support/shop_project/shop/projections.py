from ossy_event_store import Projection, register_projection


@register_projection
class Readers(Projection):
    name = "readers"
    types = ["BookLent"]

    @staticmethod
    def key(event):
        return event["payload"]["to"]

    @staticmethod
    def apply(event, state):
        return {"lent": state.get("lent", 0) + 1}
