"""Merge methods: pure functions of a group of arrays."""
