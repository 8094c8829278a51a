"""The messages of one layer on the CPU without a tensor of the size of all edges, as numba kernels.

:func:`consistent_calc.nn.layers.sum_messages` says what is computed; written in torch it is bound by memory, because
each of its dozen intermediate tensors has a row of some hundred numbers for every edge. Here an edge stays in the
registers and the first-level cache. For use, not for training: the only derivative is the first, that of
:mod:`consistent_calc.nn.derivative`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from consistent_calc.nn.layers import RelatedFilters, per_degree

#: Sums may be reordered, so that they run in vector registers; NaN and infinity stay what they are.
REORDER = {"reassoc", "contract", "nsz"}
#: Edges, or atoms where these are worked on one by one, below which a second thread costs more than it saves.
EDGES_PER_THREAD = 4000
ATOMS_PER_THREAD = 500


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled at the first call with its types, in a second or two; kept on disk where that is possible."""
    # With Python's error model a loop with a division stops at zero, and so cannot run in vector registers.
    options = partial(njit, nogil=True, fastmath=REORDER, error_model="numpy")
    try:
        return options(cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return options()(function)


@compiled
def add_row(x, weight, out):  # type: ignore[no-untyped-def]
    """Adds ``sum_k x[k] weight[k]``, four k at a time, so that ``out`` is loaded and stored less."""
    n, size = weight.shape
    k = 0
    while k + 4 <= n:
        r0, r1, r2, r3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        for c in range(size):
            out[c] += r0 * weight[k, c] + r1 * weight[k + 1, c] + r2 * weight[k + 2, c] + r3 * weight[k + 3, c]
        k += 4
    while k < n:
        for c in range(size):
            out[c] += x[k] * weight[k, c]
        k += 1


@compiled
def forward(  # type: ignore[no-untyped-def]
    first,
    last,
    start,
    sender,
    radial,
    weight,
    harmonics,
    node,
    features,
    widths,
    with_features,
    kinds,
    basis,
    kind_weight,
    scale,
    shift,
    out,
):
    f0 = widths[0]
    filters = np.empty_like(weight[0])
    more = np.empty_like(weight[0])
    for i in range(first, last):
        total = out[i]
        for e in range(start[i], start[i + 1]):
            j = sender[e]
            filters[:] = 0
            add_row(radial[e], weight, filters)
            if len(kinds) > 0 and kinds[e] != 0:
                kind = kinds[e]
                more[:] = 0
                add_row(basis[e], kind_weight, more)
                for c in range(filters.size):
                    filters[c] += more[c] * scale[kind, c] + shift[kind, c]
            for c in range(filters.size):
                filters[c] *= node[j, c]
            for c in range(f0):
                total[c] += filters[c]
            a, row, h = f0, f0, 0
            for degree in range(1, len(widths)):
                width = widths[degree]
                first_weights = filters[a : a + width]
                second_weights = filters[a + width : a + 2 * width]
                for _ in range(2 * degree + 1):
                    y = harmonics[e, h]
                    there = features[j, row : row + width]
                    here = total[row : row + width]
                    if with_features:
                        for c in range(width):
                            here[c] += y * first_weights[c] + second_weights[c] * there[c]
                    else:
                        for c in range(width):
                            here[c] += y * first_weights[c]
                    row += width
                    h += 1
                a += 2 * width


@compiled
def _products(slope, weight, out):  # type: ignore[no-untyped-def]
    """Adds ``weight @ slope`` to ``out``, four rows at a time."""
    n, k = len(weight), 0
    while k + 4 <= n:
        d0 = d1 = d2 = d3 = weight.dtype.type(0)
        for c in range(slope.size):
            x = slope[c]
            d0 += x * weight[k, c]
            d1 += x * weight[k + 1, c]
            d2 += x * weight[k + 2, c]
            d3 += x * weight[k + 3, c]
        out[k] += d0
        out[k + 1] += d1
        out[k + 2] += d2
        out[k + 3] += d3
        k += 4
    while k < n:
        dot = weight.dtype.type(0)
        for c in range(slope.size):
            dot += slope[c] * weight[k, c]
        out[k] += dot
        k += 1


@compiled
def backward(  # type: ignore[no-untyped-def]
    first,
    last,
    start,
    sender,
    radial,
    weight,
    harmonics,
    node,
    features,
    widths,
    with_features,
    grad,
    grad_radial,
    grad_harmonics,
    grad_node,
    grad_features,
):
    f0 = widths[0]
    filters = np.empty_like(weight[0])
    weights = np.empty_like(weight[0])
    slope = np.empty_like(weight[0])
    for i in range(first, last):
        mine, mine_grad = node[i], grad_node[i]
        for e in range(start[i], start[i + 1]):
            g = grad[sender[e]]
            filters[:] = 0
            add_row(radial[e], weight, filters)
            for c in range(filters.size):
                weights[c] = filters[c] * mine[c]
            for c in range(f0):
                slope[c] = g[c]
            a, row, h, sign = f0, f0, 0, weight.dtype.type(-1)
            for degree in range(1, len(widths)):
                width = widths[degree]
                on_harmonics, on_sender = slice(a, a + width), slice(a + width, a + 2 * width)
                first_slope, second_slope = slope[on_harmonics], slope[on_sender]
                first_slope[:] = 0
                second_slope[:] = 0
                first_weights, second_weights = weights[on_harmonics], weights[on_sender]
                for _ in range(2 * degree + 1):
                    y = sign * harmonics[e, h]
                    there = g[row : row + width]
                    x = features[i, row : row + width]
                    gx = grad_features[i, row : row + width]
                    dot = weight.dtype.type(0)
                    for c in range(width):
                        first_slope[c] += y * there[c]
                        dot += there[c] * first_weights[c]
                    if with_features:
                        for c in range(width):
                            second_slope[c] += x[c] * there[c]
                            gx[c] += there[c] * second_weights[c]
                    grad_harmonics[e, h] += sign * dot
                    row += width
                    h += 1
                a += 2 * width
                sign = -sign
            for c in range(slope.size):
                mine_grad[c] += slope[c] * filters[c]
                slope[c] *= mine[c]
            _products(slope, weight, grad_radial[e])


def as_array(x: Tensor) -> NDArray[Any]:
    """The numbers in order, as kernels take them."""
    return x.detach().contiguous().numpy()


def first_edges(receiver: Tensor, n_atoms: int) -> NDArray[np.int64]:
    """Where the edges of each atom begin, and the end, ``[n_atoms + 1]``, of edges sorted by receiver."""
    return np.searchsorted(receiver.numpy(), np.arange(n_atoms + 1))


def over_edges(kernel: Any, start: NDArray[np.int64], *arguments: Any) -> None:
    """Runs a kernel on ranges of receiving atoms with about equally many edges each, in as many threads as torch."""
    n_atoms, n_edges = len(start) - 1, int(start[-1])
    n_threads = min(torch.get_num_threads(), n_edges // EDGES_PER_THREAD)
    if n_threads <= 1:
        kernel(0, n_atoms, start, *arguments)
    else:
        inner = np.searchsorted(start, np.linspace(0, n_edges, n_threads + 1)[1:-1])
        _in_threads(kernel, [0, *inner.tolist(), n_atoms], start, *arguments)


def over_atoms(kernel: Any, n_atoms: int, *arguments: Any) -> None:
    """Runs a kernel on equal ranges of atoms, in as many threads as torch."""
    n_threads = min(torch.get_num_threads(), n_atoms // ATOMS_PER_THREAD)
    if n_threads <= 1:
        kernel(0, n_atoms, *arguments)
    else:
        _in_threads(kernel, [n_atoms * k // n_threads for k in range(n_threads + 1)], *arguments)


def _in_threads(kernel: Any, bounds: list[int], *arguments: Any) -> None:
    """Runs a kernel on ``bounds[0]`` to ``bounds[1]``, ``bounds[1]`` to ``bounds[2]`` and so on at once."""
    with ThreadPoolExecutor(len(bounds) - 1) as pool:
        for future in [pool.submit(kernel, a, b, *arguments) for a, b in itertools.pairwise(bounds)]:
            future.result()


def sum_messages(
    node: Tensor,
    weight: Tensor,
    radial: Tensor,
    related: RelatedFilters | None,
    harmonics: list[Tensor],
    features: list[Tensor],
    edges: Tensor,
) -> list[Tensor]:
    """As :func:`consistent_calc.nn.layers.sum_messages`, without derivatives, for edges on the CPU that are sorted by
    receiver, as those of :func:`consistent_calc.neighbors.neighbor_list`.
    """
    receiver, sender = edges
    start = first_edges(receiver, len(node))
    widths = np.array([features[0].shape[1], *(x.shape[2] for x in features[1:])])
    state = torch.cat([x.flatten(1) for x in features], dim=1)
    inputs = radial, weight.T, torch.cat(harmonics, dim=1), node, state
    arrays = [as_array(x) for x in (sender, *inputs)]
    tables = unrelated(arrays[2])
    if related is not None:
        found = related.kinds, related.basis, related.weight.T, related.scale, related.shift
        tables = tuple(as_array(x) for x in found)
    out = np.zeros_like(arrays[-1])
    # In the first layer of the energy the features of higher degree are zero.
    with_features = bool(arrays[-1][:, widths[0] :].any())
    over_edges(forward, start, *arrays, widths, with_features, *tables, out)
    return per_degree(torch.from_numpy(out), features)


def unrelated(weight: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """What :func:`forward` takes for the graph of a molecule where there is none: kinds, basis, weights and tables."""
    nothing = weight[:0]
    return np.empty(0, np.int64), nothing.T, nothing, nothing, nothing
