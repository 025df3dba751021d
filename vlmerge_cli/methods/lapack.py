"""A few routines of BLAS and LAPACK that do not hold the interpreter's lock while they compute.

scipy's own wrappers hold it, so threads would wait for each other. The same routines are also there as plain C
functions for Cython (``scipy.linalg.cython_blas``, ``cython_lapack``); called through ctypes, several threads can
multiply and solve side by side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

NumpyArray = np.ndarray[Any, Any]


def syrk(rows: NumpyArray, out: NumpyArray) -> None:
    """``out`` = rowsᵀ rows on and above the diagonal; below it ``out`` keeps what it held.

    rows (n, d) and out (d, d) are contiguous, both float32 or both float64.
    """
    count, width = rows.shape
    assert rows.dtype == out.dtype, (rows.dtype, out.dtype)
    assert out.shape == (width, width), (rows.shape, out.shape)
    single = rows.dtype == np.float32
    real = ctypes.c_float if single else ctypes.c_double
    size = _int(width)
    # BLAS reads columns first: it sees rowsᵀ (d, n), and what it calls the lower triangle is our upper one.
    _routine("cython_blas", "ssyrk" if single else "dsyrk", 8)(
        b"L", b"N", size, _int(count), ctypes.byref(real(1)), _data(rows), size, ctypes.byref(real(0)), _data(out), size
    )  # fmt: skip


def cholesky(square: NumpyArray) -> bool:
    """Replace a symmetric (d, d) float64 array by its factor, for the next two; False if it has none."""
    info, size = ctypes.c_int(), _int(len(square))
    _routine("cython_lapack", "dpotrf", 4, 1)(b"L", size, _data(square), size, ctypes.byref(info))
    assert info.value >= 0, info.value
    return info.value == 0


def reciprocal_condition(factor: NumpyArray, norm: float) -> float:
    """1 / (‖S‖₁ ‖S⁻¹‖₁), estimated from S's factor and ``norm`` = ‖S‖₁."""
    width = len(factor)
    found, info, size = ctypes.c_double(), ctypes.c_int(), _int(width)
    work, whole = np.empty(3 * width), np.empty(width, np.int32)
    _routine("cython_lapack", "dpocon", 8, 1)(
        b"L", size, _data(factor), size, ctypes.byref(ctypes.c_double(norm)), ctypes.byref(found), _data(work),
        _data(whole), ctypes.byref(info),
    )  # fmt: skip
    assert info.value == 0, info.value
    return found.value


def solve_factored(factor: NumpyArray, right: NumpyArray) -> None:
    """Replace R (n, d), float64, by X of X S = R, given S's factor."""
    count, width = right.shape
    assert factor.shape == (width, width), (factor.shape, right.shape)
    info, size = ctypes.c_int(), _int(width)
    _routine("cython_lapack", "dpotrs", 7, 1)(
        b"L", size, _int(count), _data(factor), size, _data(right), size, ctypes.byref(info)
    )  # fmt: skip
    assert info.value == 0, info.value


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _data(array: NumpyArray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous, array.strides
    return ctypes.c_void_p(array.ctypes.data)


@cache
def _routine(module: str, name: str, num_pointers: int, num_words: int = 2) -> Callable[..., None]:
    """The C function behind a capsule of scipy: ``num_words`` characters, then pointers."""
    capsule = import_module(f"scipy.linalg.{module}").__pyx_capi__[name]
    named, pointed = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    named.restype, named.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointed.restype, pointed.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = named(capsule)
    assert signature.count(b"*") == num_words + num_pointers, signature
    assert b"int *" in signature, signature
    arguments = [ctypes.c_char_p] * num_words + [ctypes.c_void_p] * num_pointers
    return ctypes.CFUNCTYPE(None, *arguments)(pointed(capsule, signature))
