"""
Rules that are checked before an event is added.

A rule takes the arguments of a reducer, ``(events, saved_state)``, and raises an
exception whose text is for the user. Rules are separate from the reducer, which folds
history and never judges it.
"""

from .aggregate import LoanApplication


class NotOpen(Exception):
    """The application has already been decided; ``status`` says how."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status

    def __str__(self):
        return f"This application is already {self.status}."


def must_be_open(events, saved_state):
    """Raise ``NotOpen`` unless the application is undecided."""
    status = LoanApplication.view(events, saved_state)["status"]
    if status != "open":
        raise NotOpen(status)
