"""What a stream was like: at a version, at a time, and what changed in between."""
