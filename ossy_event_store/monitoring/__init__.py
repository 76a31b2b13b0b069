"""Status, health and metrics of the store and its subscriptions."""
