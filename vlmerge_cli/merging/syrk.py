"""XᵀX of a block of rows by BLAS, one triangle only, without holding the interpreter's lock.

scipy's own wrappers hold the lock while they compute, so threads would wait for each other. The same routines are
also there as plain C functions for Cython (``scipy.linalg.cython_blas``); calling those through ctypes lets
several threads multiply side by side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
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
    assert rows.flags.c_contiguous
    assert out.flags.c_contiguous
    real = ctypes.c_float if rows.dtype == np.float32 else ctypes.c_double
    n, k, size = ctypes.c_int(width), ctypes.c_int(count), ctypes.c_int(width)
    # BLAS reads columns first: it sees rowsᵀ (d, n), and what it calls the lower triangle is our upper one.
    _routine("ssyrk" if rows.dtype == np.float32 else "dsyrk")(
        b"L", b"N", ctypes.byref(n), ctypes.byref(k), ctypes.byref(real(1)), rows.ctypes.data_as(ctypes.c_void_p),
        ctypes.byref(size), ctypes.byref(real(0)), out.ctypes.data_as(ctypes.c_void_p), ctypes.byref(size),
    )  # fmt: skip


@cache
def _routine(name: str) -> Callable[..., None]:
    """The C function behind a capsule of scipy.linalg.cython_blas."""
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__[name]
    named, pointed = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    named.restype, named.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointed.restype, pointed.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = named(capsule)
    assert b"int *" in signature, signature
    function = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, *[ctypes.c_void_p] * 8)
    return function(pointed(capsule, signature))
