"""Distances between two experts: the table of them, and sums that take chunks of two vectors and add up.

A new distance is one line of ``METRICS``. What it is read off are sums that are there already, or sums of its own in
one file: a class with ``of(x, y)`` for a chunk (float vectors of one length, of numpy or torch), ``+`` for two chunks
together, and the sums of no pair when it is made without arguments.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """A distance of the table: its heading, how many digits reports show, and the property of which sums it is."""

    heading: str
    digits: int
    about: str
    sums: str  # a field of metrics.all_sums.Sums, or "module:Class" of sums of its own
    value: str


#: name -> distance, in the order in which they are shown.
METRICS = {
    "l2": Metric("L2", 2, "Euclidean distance", "pairwise", "l2"),
    "cosine": Metric("cosine", 3, "cosine dissimilarity, one minus the cosine", "pairwise", "cosine"),
    "ssd": Metric("SSD", 3, "soft sign dissimilarity", "ssd", "value"),
    "tssd": Metric("TSSD", 4, "soft sign dissimilarity of the larger half of each vector", "tssd", "value"),
}
