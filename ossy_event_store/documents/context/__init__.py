"""
Who appends, and because of what: the context that fills in new events. No I/O.

The store fills in ``createdBy`` and ``metadata`` of an event only inside of a context:
in a request with the middleware, in ``event_context()``, or in a handler.
"""
