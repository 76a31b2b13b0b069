"""The catalogue of event types as people read it, and beside what is stored."""
