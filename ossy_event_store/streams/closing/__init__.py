"""Closing the books: streams that have ended, and those that continue them."""
