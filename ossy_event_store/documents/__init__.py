"""What events and values may be: pure code, no I/O."""
