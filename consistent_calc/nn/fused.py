"""The messages of one layer on the CPU without a tensor of the size of all edges, as numba kernels.

:func:`consistent_calc.nn.layers.sum_messages` says what is computed; written in torch it is bound by memory, because
each of its dozen intermediate tensors has a row of some hundred numbers for every edge. Here an edge stays in the
registers and the first-level cache. For use, not for training: the only derivative is the first, that of
:mod:`consistent_calc.nn.derivative`.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consistent_calc.jit import compiled
from consistent_calc.nn.fused_product import add_product, panels
from consistent_calc.nn.layers import RelatedFilters, per_degree

#: Edges, or atoms where these are worked on one by one, below which a second thread costs more than it saves.
EDGES_PER_THREAD = 4000
ATOMS_PER_THREAD = 500
#: Edges whose filters are made together: they stay in the cache.
CHUNK = 32


@compiled
def _filters(radial, weight, out):  # type: ignore[no-untyped-def]
    """Of some edges, into the first rows of ``out``."""
    for e in range(len(radial)):
        for c in range(out.shape[1]):
            out[e, c] = 0
    add_product(radial, weight, out)


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
    chunk, more = np.empty((CHUNK, node.shape[1]), node.dtype), np.empty((CHUNK, node.shape[1]), node.dtype)
    i = first
    for lo in range(start[first], start[last], CHUNK):
        hi = min(lo + CHUNK, start[last])
        _filters(radial[lo:hi], weight, chunk)
        if len(kinds) > 0:
            _filters(basis[lo:hi], kind_weight, more)
        for e in range(lo, hi):
            while start[i + 1] <= e:
                i += 1
            total, filters, j = out[i], chunk[e - lo], sender[e]
            if len(kinds) > 0 and kinds[e] != 0:
                kind = kinds[e]
                for c in range(filters.size):
                    filters[c] += more[e - lo, c] * scale[kind, c] + shift[kind, c]
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
    transposed,
    grad,
    grad_radial,
    grad_harmonics,
    grad_node,
    grad_features,
):
    f0 = widths[0]
    chunk, slopes = np.empty((CHUNK, node.shape[1]), node.dtype), np.empty((CHUNK, node.shape[1]), node.dtype)
    weights = np.empty_like(node[0])
    i = first
    for lo in range(start[first], start[last], CHUNK):
        hi = min(lo + CHUNK, start[last])
        _filters(radial[lo:hi], weight, chunk)
        for e in range(lo, hi):
            while start[i + 1] <= e:
                i += 1
            mine, mine_grad, filters, slope, g = node[i], grad_node[i], chunk[e - lo], slopes[e - lo], grad[sender[e]]
            for c in range(filters.size):
                weights[c] = filters[c] * mine[c]
            for c in range(f0):
                slope[c] = g[c]
            a, row, h, sign = f0, f0, 0, node.dtype.type(-1)
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
                    dot = node.dtype.type(0)
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
        add_product(slopes[: hi - lo], transposed, grad_radial[lo:hi])


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
    arrays = [as_array(x) for x in (sender, radial, torch.cat(harmonics, dim=1), node, state)]
    arrays.insert(2, panels(as_array(weight.T)))
    tables = unrelated(arrays[2])
    if related is not None:
        kinds, basis, *more = map(as_array, (related.kinds, related.basis, related.scale, related.shift))
        tables = kinds, basis, panels(as_array(related.weight.T)), *more
    out = np.zeros_like(arrays[-1])
    # In the first layer of the energy the features of higher degree are zero.
    with_features = bool(arrays[-1][:, widths[0] :].any())
    over_edges(forward, start, *arrays, widths, with_features, *tables, out)
    return per_degree(torch.from_numpy(out), features)


def unrelated(weight: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """What :func:`forward` takes for the graph of a molecule where there is none: kinds, basis, weights and tables."""
    nothing = weight[0, :0]
    return np.empty(0, np.int64), nothing, weight[:0], nothing, nothing
