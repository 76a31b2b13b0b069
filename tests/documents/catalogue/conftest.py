"""Event types, upcasters, and what they make of stored events."""

from tests.support.catalogue import declarations  # noqa: F401
