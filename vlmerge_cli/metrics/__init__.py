"""Distances between experts, as streaming accumulators."""
