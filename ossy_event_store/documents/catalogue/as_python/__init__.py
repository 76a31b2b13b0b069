"""Events as the Python that makes them, for tests. Pure."""
