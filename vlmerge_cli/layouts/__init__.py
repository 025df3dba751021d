"""Naming schemes of checkpoint families, as data."""
