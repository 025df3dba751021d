"""Heads, losses and scores, one task a file."""
