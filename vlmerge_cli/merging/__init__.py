"""Plan a merge, execute it, measure distances."""
