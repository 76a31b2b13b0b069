"""The global order of events: assign positions, read by position."""
