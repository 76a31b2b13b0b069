"""Status, health and metrics of subscriptions."""
