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
from consistent_calc.nn.fused_product import add_product, panels, put_product
from consistent_calc.nn.layers import RelatedFilters, per_degree
from consistent_calc.simd import broadcast, fma, lanes_of, load, multiply, store, total

#: Edges, or atoms where these are worked on one by one, below which a second thread costs more than it saves.
EDGES_PER_THREAD = 4000
ATOMS_PER_THREAD = 500
#: Edges whose filters are made together: they stay in the cache.
CHUNK = 32


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
    lanes,
    out,
):
    f0 = widths[0]
    step = len(lanes)
    chunk, more = np.empty((CHUNK, node.shape[1]), node.dtype), np.empty((CHUNK, node.shape[1]), node.dtype)
    i = first
    for lo in range(start[first], start[last], CHUNK):
        hi = min(lo + CHUNK, start[last])
        put_product(radial[lo:hi], weight, chunk)
        if len(kinds) > 0:
            put_product(basis[lo:hi], kind_weight, more)
        for e in range(lo, hi):
            while start[i + 1] <= e:
                i += 1
            j, q = sender[e], e - lo
            if len(kinds) > 0 and kinds[e] != 0:
                kind = kinds[e]
                for c in range(node.shape[1]):
                    chunk[q, c] += more[q, c] * scale[kind, c] + shift[kind, c]
            for c in range(0, f0, step):
                here = fma(load(chunk, q, c, lanes), load(node, j, c, lanes), load(out, i, c, lanes))
                store(out, i, c, here)
            a, row, h = f0, f0, 0
            for degree in range(1, len(widths)):
                width, n = widths[degree], 2 * degree + 1
                for c in range(0, width, step):
                    b = a + width
                    first_weight = multiply(load(chunk, q, a + c, lanes), load(node, j, a + c, lanes))
                    second_weight = multiply(load(chunk, q, b + c, lanes), load(node, j, b + c, lanes))
                    for m in range(n):
                        place = row + m * width + c
                        here = fma(broadcast(harmonics[e, h + m], lanes), first_weight, load(out, i, place, lanes))
                        if with_features:
                            here = fma(load(features, j, place, lanes), second_weight, here)
                        store(out, i, place, here)
                a += 2 * width
                row += n * width
                h += n


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
    lanes,
    transposed,
    grad,
    grad_radial,
    grad_harmonics,
    grad_node,
    grad_features,
):
    f0 = widths[0]
    chunk, slopes = np.empty((CHUNK, node.shape[1]), node.dtype), np.empty((CHUNK, node.shape[1]), node.dtype)
    step = len(lanes)
    dots = np.empty((2 * len(widths) - 1, step), node.dtype)
    i = first
    for lo in range(start[first], start[last], CHUNK):
        hi = min(lo + CHUNK, start[last])
        put_product(radial[lo:hi], weight, chunk)
        for e in range(lo, hi):
            while start[i + 1] <= e:
                i += 1
            j, q = sender[e], e - lo
            for c in range(0, f0, step):
                there = load(grad, j, c, lanes)
                store(grad_node, i, c, fma(there, load(chunk, q, c, lanes), load(grad_node, i, c, lanes)))
                store(slopes, q, c, multiply(there, load(node, i, c, lanes)))
            a, row, h, sign = f0, f0, 0, node.dtype.type(-1)
            for degree in range(1, len(widths)):
                width, n = widths[degree], 2 * degree + 1
                dots[:] = 0
                for c in range(0, width, step):
                    b = a + width
                    first_filter, second_filter = load(chunk, q, a + c, lanes), load(chunk, q, b + c, lanes)
                    first_node, second_node = load(node, i, a + c, lanes), load(node, i, b + c, lanes)
                    first_weight = multiply(first_filter, first_node)
                    second_weight = multiply(second_filter, second_node)
                    first_slope = second_slope = broadcast(node.dtype.type(0), lanes)
                    for m in range(n):
                        place = row + m * width + c
                        there = load(grad, j, place, lanes)
                        first_slope = fma(broadcast(sign * harmonics[e, h + m], lanes), there, first_slope)
                        store(dots, m, 0, fma(there, first_weight, load(dots, m, 0, lanes)))
                        if with_features:
                            second_slope = fma(load(features, i, place, lanes), there, second_slope)
                            here = fma(there, second_weight, load(grad_features, i, place, lanes))
                            store(grad_features, i, place, here)
                    store(grad_node, i, a + c, fma(first_slope, first_filter, load(grad_node, i, a + c, lanes)))
                    store(grad_node, i, b + c, fma(second_slope, second_filter, load(grad_node, i, b + c, lanes)))
                    store(slopes, q, a + c, multiply(first_slope, first_node))
                    store(slopes, q, b + c, multiply(second_slope, second_node))
                for m in range(n):
                    grad_harmonics[e, h + m] += sign * total(load(dots, m, 0, lanes))
                a += 2 * width
                row += n * width
                h += n
                sign = -sign
        add_product(slopes[: hi - lo], transposed, grad_radial[lo:hi])


def as_array(x: Tensor) -> NDArray[Any]:
    """The numbers in order, as kernels take them."""
    return x.detach().contiguous().numpy()


def as_panels(weight: Tensor) -> NDArray[Any]:
    """A weight of the form ``x @ weight``, as products take it."""
    return panels(as_array(weight))


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
    filters = as_panels(weight.T)
    others = map(as_array, (torch.cat(harmonics, dim=1), node, state))
    arrays = [as_array(sender), as_array(radial), filters, *others]
    tables = unrelated(filters)
    if related is not None:
        kinds, basis, *more = map(as_array, (related.kinds, related.basis, related.scale, related.shift))
        tables = kinds, basis, as_panels(related.weight.T), *more
    out = np.zeros_like(arrays[-1])
    # In the first layer of the energy the features of higher degree are zero.
    with_features = bool(arrays[-1][:, widths[0] :].any())
    lanes = lanes_of(out.dtype, *widths)
    over_edges(forward, start, *arrays, widths, with_features, *tables, lanes, out)
    return per_degree(torch.from_numpy(out), features)


def unrelated(weight: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """What :func:`forward` takes for the graph of a molecule where there is none: kinds, basis, weights and tables."""
    nothing = weight[0, :0]
    return np.empty(0, np.int64), nothing, weight[:0], nothing, nothing
