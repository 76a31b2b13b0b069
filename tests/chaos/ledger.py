"""The domain of the chaos run: a state that tells which events made it, in order."""

import hashlib


class Ledger:
    aggregate_type = "Ledger"
    revision = "1"

    @staticmethod
    def view(events, saved_state):
        state = {"entries": 0, "chain": "", **saved_state}
        for event in events:
            state["entries"] += 1
            link = f"{state['chain']}/{event['payload']['token']}"
            state["chain"] = hashlib.sha256(link.encode()).hexdigest()[:16]
        return state


ACCOUNTS = 20


def account(event):
    """Return what an event belongs to besides its stream."""
    return event["payload"]["note"] % ACCOUNTS


def entry(token, note, **more):
    """Return an event as a caller writes it; its token tells it from all others."""
    payload = {"token": token, "note": note}
    return {"type": "Entered", "payload": payload, "createdBy": "chaos", **more}
