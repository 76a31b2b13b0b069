"""Several streams at once: transactions, and appends with rules over streams."""
