"""Who did what, and because of what, on the pages: trees, causes, a user's events."""
