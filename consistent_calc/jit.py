"""How kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numba import njit

#: Sums may be reordered, so that they run in vector registers; NaN and infinity stay what they are.
REORDER = {"reassoc", "contract", "nsz"}


def compiled(
    function: Callable[..., Any], *, flags: set[str] | bool = REORDER, from_python: bool = True
) -> Callable[..., Any]:
    """Compiled at the first call with its types, in a second or two; kept on disk where that is possible.

    Args:
        function: in the part of Python that numba knows.
        flags: what may be done to floating-point arithmetic; False keeps it to the letter.
        from_python: whether Python calls it; a kernel that only others call compiles faster.
    """
    # With Python's error model a loop with a division stops at zero, and so cannot run in vector registers.
    options = partial(njit, nogil=True, fastmath=flags, error_model="numpy", no_cpython_wrapper=not from_python)
    try:
        return options(cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return options()(function)


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`compiled`, for what only kernels call."""
    return compiled(function, from_python=False)


def to_the_letter(function: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`compiled`, with arithmetic as it is written: in neighbor lists a pair and its reverse must be equal."""
    return compiled(function, flags=False)
