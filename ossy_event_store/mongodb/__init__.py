"""MongoDB without the domain: connection, ports, indexes, leases."""
