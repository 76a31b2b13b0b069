"""Verification as a function, for users to import."""

from .verification.verify import averify_event_store, verify_event_store

__all__ = ["averify_event_store", "verify_event_store"]
