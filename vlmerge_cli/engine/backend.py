"""Which arrays compute on a device."""

from __future__ import annotations

from vlmerge_cli.engine.arrays import Arrays, NumpyArrays


def make_arrays(device: str) -> Arrays:
    """In numpy on the CPU, in torch elsewhere."""
    if device == "cpu":
        return NumpyArrays()
    from vlmerge_cli.engine.torcharrays import TorchArrays

    return TorchArrays(device)
