"""Heads, losses and scores, one task a file."""

#: Objectives of pre-training, each a function in the file of its name.
OBJECTIVES = ("itc", "itm", "mlm")
