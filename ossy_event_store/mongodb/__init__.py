"""The driver: connection, ports, indexes, leases."""
