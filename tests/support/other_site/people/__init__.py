"""The users of a site: they have an address and no name."""
