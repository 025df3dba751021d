"""Distances of a checkpoint's experts: the passes over its bytes, and the rows that come of them."""
