"""A model in use, on pictures and sentences of one's own."""
