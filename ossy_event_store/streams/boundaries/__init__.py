"""Boundaries: read by a query, and append unless other events match it."""
