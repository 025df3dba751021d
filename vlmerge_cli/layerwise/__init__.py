"""Merging layer by layer on a running model: each layer is fitted to what the merged layers below really feed it."""
