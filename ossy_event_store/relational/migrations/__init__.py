"""The migrations of the one table."""
