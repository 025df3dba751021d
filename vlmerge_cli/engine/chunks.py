"""How much is computed with, and copied, at once on the CPU."""

#: Elements of a piece on the CPU: few enough for the caches, so many that calls from Python do not count.
CHUNK_ELEMENTS = 1 << 18
COPY_BYTES = 1 << 20
