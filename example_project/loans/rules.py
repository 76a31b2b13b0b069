"""
What must hold before an event is added.

Rules take what a reducer takes, ``(events, saved_state)``, and raise a sentence for
the user. They stand apart from the reducer: history is folded, never judged.
"""

from .aggregate import LoanApplication


class NotOpen(Exception):
    """The application has been decided; ``status`` says how."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status

    def __str__(self):
        return f"This application is {self.status} already."


def must_be_open(events, saved_state):
    """Raise ``NotOpen`` unless the application is undecided."""
    status = LoanApplication.view(events, saved_state)["status"]
    if status != "open":
        raise NotOpen(status)
