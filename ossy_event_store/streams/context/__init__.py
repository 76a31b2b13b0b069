"""Who appends, in events that are stored; and which events led to which."""
