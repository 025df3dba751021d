"""The built-in data set: scenes drawn from a seed, what is said of them, and both written in real formats."""
