"""The linear algebra that RegMean needs, for numpy (through LAPACK) and torch arrays alike. All in float64."""

from __future__ import annotations

import math
from typing import NamedTuple

from vlmerge_cli.methods.method import Array, Group

#: Rows of a matrix that are unpacked together on a GPU.
BAND_ROWS = 1024


class Solution(NamedTuple):
    """X of X S = R, with an estimate of S's condition number (infinite where S has no Cholesky factor)."""

    value: Array | None
    condition: float


def packed_size(width: int) -> int:
    """Entries of a packed triangle of a (width, width) matrix."""
    return width * (width + 1) // 2


def packed_width(size: int) -> int:
    """d of a packed triangle with d (d+1) / 2 entries; -1 when no d fits."""
    width = (math.isqrt(8 * size + 1) - 1) // 2
    return width if packed_size(width) == size else -1


def unpack(triangle: Array) -> Array:
    """(d, d) symmetric, new, from its upper triangle packed by rows: row i holds columns i ... d-1."""
    width = packed_width(len(triangle))
    if _is_torch(triangle):
        return _unpack_torch(triangle, width)
    full = _empty(triangle, width)
    start = 0
    for row in range(width):
        stop = start + width - row
        full[row, row:] = triangle[start:stop]
        full[row:, row] = triangle[start:stop]
        start = stop
    return full


def pack(full: Array) -> Array:
    """Upper triangle of (d, d) by rows, as ``unpack`` takes it."""
    width = len(full)
    triangle = _empty(full, packed_size(width), 1)
    start = 0
    for row in range(width):
        triangle[start : start + width - row] = full[row, row:]
        start += width - row
    return triangle


def as_float64(array: Array) -> Array:
    """A float64 copy."""
    return array.double().clone() if _is_torch(array) else array.astype("float64")


def gram_of(group: Group, expert: str, weigh: str) -> Array:
    """XᵀX of an expert's input as a new (in, in) float64 array; ``equal`` divides it by its number of tokens."""
    stored = group.grams[expert]
    full = unpack(stored) if stored.ndim == 1 else as_float64(stored)
    if weigh == "equal":
        full /= group.tokens[expert]
    return full


def solve(system: Array, right: Array) -> Solution:
    """X with X S = R for symmetric positive definite S (d, d) and R (n, d); both may be overwritten.

    Cholesky, never an explicit inverse. The condition number is estimated in the 1-norm from the factor.
    """
    return _solve_torch(system, right) if _is_torch(system) else _solve_numpy(system, right)


def condition(system: Array) -> float:
    """Ratio of the largest to the smallest eigenvalue of a symmetric matrix; for messages (costly)."""
    if _is_torch(system):
        import torch

        values = torch.linalg.eigvalsh(system)
    else:
        import numpy as np

        values = np.linalg.eigvalsh(system)
    low, high = float(values[0]), float(values[-1])
    return high / low if low > 0 else math.inf


def _is_torch(array: Array) -> bool:
    return hasattr(array, "new_empty")


def _empty(like: Array, size: int, dims: int = 2) -> Array:
    shape = (size,) * dims
    if _is_torch(like):
        return like.new_empty(shape)
    import numpy as np

    return np.empty(shape, like.dtype)


def _unpack_torch(triangle: Array, width: int) -> Array:
    """``unpack`` in few steps, as a GPU wants it: some rows at a time, by the place of each entry."""
    import torch

    full = triangle.new_empty(width, width)
    column = torch.arange(width, device=triangle.device)
    for rows, part in zip(column.split(BAND_ROWS), full.split(BAND_ROWS), strict=True):
        low, high = torch.minimum(rows[:, None], column), torch.maximum(rows[:, None], column)
        torch.take(triangle, low * (2 * width - low - 1) // 2 + high, out=part)
    return full


def _solve_numpy(system: Array, right: Array) -> Solution:
    import numpy as np

    from vlmerge_cli.methods import lapack

    if not len(system):
        return Solution(np.zeros(right.shape), 1.0)
    system, right = np.ascontiguousarray(system), np.ascontiguousarray(right)
    norm = float(np.abs(system).sum(axis=0).max())
    if not lapack.cholesky(system):
        return Solution(None, math.inf)
    reciprocal = lapack.reciprocal_condition(system, norm)
    lapack.solve_factored(system, right)
    return Solution(right, 1 / reciprocal if reciprocal > 0 else math.inf)


def _solve_torch(system: Array, right: Array) -> Solution:
    import torch

    norm = float(torch.linalg.matrix_norm(system, 1)) if len(system) else 0.0
    factor, failed = torch.linalg.cholesky_ex(system)
    if int(failed):
        return Solution(None, math.inf)
    value = torch.cholesky_solve(right.T, factor).T
    return Solution(value, norm * _inverse_norm(factor))


def _inverse_norm(factor: Array) -> float:
    """1-norm of (L Lᵀ)⁻¹, estimated from below by Hager's method (Higham, 1988, algorithm 2.4)."""
    import torch

    width = len(factor)
    x = factor.new_full((width, 1), 1 / width)
    estimate = 0.0
    for _ in range(5):
        y = torch.cholesky_solve(x, factor)
        estimate = max(estimate, float(y.abs().sum()))
        z = torch.cholesky_solve(torch.where(y >= 0, 1.0, -1.0).to(y.dtype), factor)
        peak = int(z.abs().argmax())
        if float(z.abs().max()) <= float((z * x).sum()):
            break
        x = torch.zeros_like(x)
        x[peak] = 1
    return estimate
