"""Documents and values: which ones are allowed, as JSON, as text, and their diff."""
