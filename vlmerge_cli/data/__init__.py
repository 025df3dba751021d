"""Readers, tokenizer, image transforms and the built-in data set."""
