"""Distances between two experts, as accumulators that take chunks and add up."""

#: name -> what it is; the order in which they are shown.
METRICS = {
    "l2": "Euclidean distance",
    "cosine": "cosine dissimilarity, one minus the cosine",
    "ssd": "soft sign dissimilarity",
    "tssd": "soft sign dissimilarity of the larger half of each vector",
}
