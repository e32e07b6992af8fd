"""Hard negatives for pairs of query and positive."""
