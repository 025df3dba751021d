"""Training loops; knows nothing of merging."""
