"""Event types as JSON Schema, and what a change of them breaks. Pure."""
