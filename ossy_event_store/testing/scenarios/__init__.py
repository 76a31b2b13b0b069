"""What ``given()`` returns: rules, boundaries and projections without a store."""
