"""The catalogue of event types: their versions, classes and upcasters. Pure."""
