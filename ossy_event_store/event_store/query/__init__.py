"""Lazy queries over events: what they ask, how they are read, their cursors."""
