"""What the layers do to each atom on its own, as numba kernels: forward and backward.

In torch these are some hundred operations, of which each takes longer to start than to run for a molecule, and moves
the features of all atoms through the memory for a large batch. Here a few dozen atoms at a time go through a layer.

A *state* ``[n_atoms, size]`` holds in a row all features of an atom, degree by degree, the scalars first. *Pairs* are,
for each degree from 1, the results ``[n_atoms * (2l + 1), 2 * channels_l]`` of the left and right maps of
:class:`consistent_calc.nn.layers.Update`. ``widths`` are the channels of each degree. Each kernel works on the atoms
from ``first`` to ``last``. Weights are of the form ``x @ weight``; of a perceptron they come as a tuple ``weight, bias,
weight, bias``, and for backward as the two transposed weights.
"""

from __future__ import annotations

import numpy as np

from consistent_calc.jit import compiled, helper
from consistent_calc.nn.fused_product import add_product, put_product
from consistent_calc.simd import add, broadcast, fma, load, multiply, store

#: Atoms that go through a layer together: their features stay in the cache.
CHUNK = 32


@helper
def _sigmoid(x):  # type: ignore[no-untyped-def]
    """By arithmetic alone, which the compiler does for several numbers at once, unlike a call of exp.

    ``exp(-x)`` is the 64th power of the Taylor series of ``exp(-x / 64)`` to order 8, in double precision. The error of
    the result is below 1e-14: where the series is poor, the sigmoid is at its limits.
    """
    t = min(max(float(x), -44.0), 44.0) * (-1 / 64)
    e = 1 + t * (1 / 8)
    e = 1 + t * (1 / 7) * e
    e = 1 + t * (1 / 6) * e
    e = 1 + t * (1 / 5) * e
    e = 1 + t * (1 / 4) * e
    e = 1 + t * (1 / 3) * e
    e = 1 + t * (1 / 2) * e
    e = 1 + t * e
    e *= e
    e *= e
    e *= e
    e *= e
    e *= e
    e *= e
    return 1 / (1 + e)


@compiled
def _silu(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        for c in range(x.shape[1]):
            out[i, c] = x[i, c] * _sigmoid(x[i, c])


@compiled
def _silu_backward(x, grad):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        for c in range(x.shape[1]):
            sigmoid = _sigmoid(x[i, c])
            grad[i, c] *= sigmoid * (1 + x[i, c] * (1 - sigmoid))


@helper
def _repeat(row, out):  # type: ignore[no-untyped-def]
    """One row in all rows; numba's assignment does it too, but takes four seconds to compile."""
    for i in range(len(out)):
        for c in range(len(row)):
            out[i, c] = row[c]


@helper
def _perceptron(x, layers, hidden, out):  # type: ignore[no-untyped-def]
    """Two maps with a SiLU between them; ``hidden`` is what goes into it."""
    first, first_bias, second, second_bias = layers
    _repeat(first_bias, hidden)
    add_product(x, first, hidden)
    active = np.empty_like(hidden)
    _silu(hidden, active)
    _repeat(second_bias, out)
    add_product(active, second, out)


@helper
def _perceptron_backward(grad, layers, hidden, out):  # type: ignore[no-untyped-def]
    second, first = layers
    on_hidden = np.empty_like(hidden)
    put_product(grad, second, on_hidden)
    _silu_backward(hidden, on_hidden)
    put_product(on_hidden, first, out)


@helper
def _normalize(state, f0, out, scale):  # type: ignore[no-untyped-def]
    """Layer norm of the scalars without its linear part, into the first columns of ``out``."""
    count = state.dtype.type(f0)
    for i in range(len(state)):
        mean = square = state.dtype.type(0)
        for c in range(f0):
            mean += state[i, c]
        mean /= count
        for c in range(f0):
            square += (state[i, c] - mean) ** 2
        scale[i] = 1 / np.sqrt(square / count + state.dtype.type(1e-5))
        for c in range(f0):
            out[i, c] = (state[i, c] - mean) * scale[i]


@helper
def _normalize_backward(normalized, f0, scale, grad, out):  # type: ignore[no-untyped-def]
    """Adds to the first columns of ``out``."""
    count = grad.dtype.type(f0)
    for i in range(len(grad)):
        mean = along = grad.dtype.type(0)
        for c in range(f0):
            mean += grad[i, c]
            along += grad[i, c] * normalized[i, c]
        mean /= count
        along /= count
        for c in range(f0):
            out[i, c] += scale[i] * (grad[i, c] - mean - normalized[i, c] * along)


@compiled
def node(first, last, f0, state, layers, normalized, scale, hidden, out):  # type: ignore[no-untyped-def]
    """The part of a message that belongs to its sender."""
    for lo in range(first, last, CHUNK):
        hi = min(lo + CHUNK, last)
        _normalize(state[lo:hi], f0, normalized[lo:hi], scale[lo:hi])
        _perceptron(normalized[lo:hi], layers, hidden[lo:hi], out[lo:hi])


@compiled
def node_backward(first, last, f0, grad, layers, normalized, scale, hidden, out):  # type: ignore[no-untyped-def]
    """Adds to the gradient of the state."""
    on_normalized = np.empty((CHUNK, f0), grad.dtype)
    for lo in range(first, last, CHUNK):
        hi = min(lo + CHUNK, last)
        mine = on_normalized[: hi - lo]
        _perceptron_backward(grad[lo:hi], layers, hidden[lo:hi], mine)
        _normalize_backward(normalized[lo:hi], f0, scale[lo:hi], mine, out[lo:hi])


@helper
def _gather(state, column, n, lanes, out):  # type: ignore[no-untyped-def]
    """The features of one degree, which begin at a column, with a row for each of the ``n`` components."""
    width = out.shape[1]
    for k in range(len(out)):
        for c in range(0, width, len(lanes)):
            store(out, k, c, load(state, k // n, column + k % n * width + c, lanes))


@helper
def _add_gathered(x, column, n, lanes, state):  # type: ignore[no-untyped-def]
    """Adds what has the form that :func:`_gather` gives."""
    width = x.shape[1]
    for k in range(len(x)):
        for c in range(0, width, len(lanes)):
            place = column + k % n * width + c
            store(state, k // n, place, add(load(x, k, c, lanes), load(state, k // n, place, lanes)))


@helper
def _invariants(pair, n, f0, place, eps, lanes, lengths, products):  # type: ignore[no-untyped-def]
    """Lengths of the right maps and scalar products of both, from column ``place`` (of lengths: after the scalars)."""
    width = pair.shape[1] // 2
    for i in range(len(products)):
        for c in range(0, width, len(lanes)):
            square, product = broadcast(eps * eps, lanes), broadcast(pair.dtype.type(0), lanes)
            for k in range(i * n, (i + 1) * n):
                left, right = load(pair, k, c, lanes), load(pair, k, width + c, lanes)
                square, product = fma(right, right, square), fma(left, right, product)
            store(lengths, i, f0 + place + c, square)
            store(products, i, place + c, product)
        for c in range(f0 + place, f0 + place + width):
            lengths[i, c] = np.sqrt(lengths[i, c]) - eps


@helper
def _invariants_backward(pair, n, begin, eps, lanes, lengths, on_lengths, on_pair):  # type: ignore[no-untyped-def]
    """Adds what comes through the lengths, which begin at a column, to the gradient of the right maps."""
    width = pair.shape[1] // 2
    for i in range(len(lengths)):
        for c in range(begin, begin + width):
            on_lengths[i, c] /= lengths[i, c] + eps
        for c in range(0, width, len(lanes)):
            slope = load(on_lengths, i, begin + c, lanes)
            for k in range(i * n, (i + 1) * n):
                old = load(on_pair, k, width + c, lanes)
                store(on_pair, k, width + c, fma(slope, load(pair, k, width + c, lanes), old))


@helper
def _gate(pair, n, column, f0, place, lanes, gates, products, gated, state):  # type: ignore[no-untyped-def]
    """Adds the left maps times a gate to the state, and puts products times another where these are mixed."""
    width = pair.shape[1] // 2
    begin = f0 + 2 * place
    for i in range(len(gates)):
        for c in range(0, width, len(lanes)):
            first, second = load(gates, i, begin + c, lanes), load(gates, i, begin + width + c, lanes)
            store(gated, i, place + c, multiply(load(products, i, place + c, lanes), second))
            for m in range(n):
                where = column + m * width + c
                store(state, i, where, fma(load(pair, i * n + m, c, lanes), first, load(state, i, where, lanes)))


@helper
def _gate_backward(  # type: ignore[no-untyped-def]
    pair, n, column, f0, place, lanes, gates, products, grad, on_gated, on_gates, on_pair
):
    width = pair.shape[1] // 2
    begin = f0 + 2 * place
    for i in range(len(gates)):
        for c in range(0, width, len(lanes)):
            first, second = load(gates, i, begin + c, lanes), load(gates, i, begin + width + c, lanes)
            on_product = load(on_gated, i, place + c, lanes)
            store(on_gates, i, begin + width + c, multiply(on_product, load(products, i, place + c, lanes)))
            on_product, on_first = multiply(on_product, second), broadcast(pair.dtype.type(0), lanes)
            for m in range(n):
                k = i * n + m
                left, right = load(pair, k, c, lanes), load(pair, k, width + c, lanes)
                there = load(grad, i, column + m * width + c, lanes)
                on_first = fma(there, left, on_first)
                store(on_pair, k, c, fma(there, first, multiply(on_product, right)))
                store(on_pair, k, width + c, multiply(on_product, left))
            store(on_gates, i, begin + c, on_first)


@compiled
def update(  # type: ignore[no-untyped-def]
    first, last, widths, eps, lanes, state, maps, layers, mixing, pairs, products, gates, hidden, scale, inner
):
    """Adds the update to the state, and keeps what :func:`update_backward` needs in the arrays after ``mixing``."""
    f0 = widths[0]
    scalars = np.empty((CHUNK, f0), state.dtype)
    gated = np.empty((CHUNK, products.shape[1]), state.dtype)
    for lo in range(first, last, CHUNK):
        hi = min(lo + CHUNK, last)
        mine, mine_hidden, mine_gates, mine_products = state[lo:hi], hidden[lo:hi], gates[lo:hi], products[lo:hi]
        _normalize(mine, f0, mine_hidden, scale[lo:hi])
        column, place = f0, 0
        for degree in range(1, len(widths)):
            n = 2 * degree + 1
            pair = pairs[degree - 1][lo * n : hi * n]
            x = np.empty((len(pair), widths[degree]), state.dtype)
            _gather(mine, column, n, lanes, x)
            put_product(x, maps[degree - 1], pair)
            _invariants(pair, n, f0, place, eps, lanes, mine_hidden, mine_products)
            column += n * widths[degree]
            place += widths[degree]
        _perceptron(mine_hidden, layers, inner[lo:hi], mine_gates)
        column, place = f0, 0
        for degree in range(1, len(widths)):
            n = 2 * degree + 1
            pair = pairs[degree - 1][lo * n : hi * n]
            _gate(pair, n, column, f0, place, lanes, mine_gates, mine_products, gated, mine)
            column += n * widths[degree]
            place += widths[degree]
        put_product(gated[: hi - lo], mixing, scalars)
        for i in range(hi - lo):
            for c in range(f0):
                mine[i, c] += mine_gates[i, c] + scalars[i, c]


@compiled
def update_backward(  # type: ignore[no-untyped-def]
    first, last, widths, eps, lanes, grad, maps, layers, mixing, pairs, products, gates, hidden, scale, inner
):
    """Turns the gradient of the new state into that of the old one; all weights transposed."""
    f0 = widths[0]
    on_scalars = np.empty((CHUNK, f0), grad.dtype)
    on_gated = np.empty((CHUNK, products.shape[1]), grad.dtype)
    on_gates = np.empty((CHUNK, gates.shape[1]), grad.dtype)
    on_hidden = np.empty((CHUNK, hidden.shape[1]), grad.dtype)
    on_pairs = [np.empty((CHUNK * (2 * k + 3), x.shape[1]), grad.dtype) for k, x in enumerate(pairs)]
    for lo in range(first, last, CHUNK):
        hi = min(lo + CHUNK, last)
        mine, mine_hidden = grad[lo:hi], hidden[lo:hi]
        for i in range(hi - lo):
            for c in range(f0):
                on_scalars[i, c] = on_gates[i, c] = mine[i, c]
        put_product(on_scalars[: hi - lo], mixing, on_gated)
        column, place = f0, 0
        for degree in range(1, len(widths)):
            n = 2 * degree + 1
            pair, on_pair = pairs[degree - 1][lo * n : hi * n], on_pairs[degree - 1]
            kept = gates[lo:hi], products[lo:hi]
            _gate_backward(pair, n, column, f0, place, lanes, *kept, mine, on_gated, on_gates, on_pair)
            column += n * widths[degree]
            place += widths[degree]
        _perceptron_backward(on_gates[: hi - lo], layers, inner[lo:hi], on_hidden[: hi - lo])
        column, place = f0, 0
        for degree in range(1, len(widths)):
            n = 2 * degree + 1
            pair, on_pair = pairs[degree - 1][lo * n : hi * n], on_pairs[degree - 1]
            _invariants_backward(pair, n, f0 + place, eps, lanes, mine_hidden, on_hidden, on_pair)
            on_x = np.empty((len(pair), widths[degree]), grad.dtype)
            put_product(on_pair[: len(pair)], maps[degree - 1], on_x)
            _add_gathered(on_x, column, n, lanes, mine)
            column += n * widths[degree]
            place += widths[degree]
        _normalize_backward(mine_hidden, f0, scale[lo:hi], on_hidden[: hi - lo], mine)


@compiled
def head(  # type: ignore[no-untyped-def]
    first, last, f0, state, layers, back, charge_layers, readout, constants, level, energies, charges, grad
):
    """Atomic energies at each atom's level, their gradient (added to ``grad``), raw charges and their weights."""
    size = readout.shape[1]
    normalized, on_normalized = np.empty((CHUNK, f0), state.dtype), np.empty((CHUNK, f0), state.dtype)
    scale, hidden = np.empty(CHUNK, state.dtype), np.empty((CHUNK, f0), state.dtype)
    outer, active = np.empty((CHUNK, size), state.dtype), np.empty((CHUNK, size), state.dtype)
    on_outer = np.empty_like(outer)
    charge_hidden = np.empty((CHUNK, len(charge_layers[1])), state.dtype)
    for lo in range(first, last, CHUNK):
        hi = min(lo + CHUNK, last)
        n = hi - lo
        _normalize(state[lo:hi], f0, normalized[:n], scale[:n])
        _perceptron(normalized[:n], layers, hidden[:n], outer[:n])
        _silu(outer[:n], active[:n])
        for i in range(n):
            weight = readout[level[lo + i]]
            total = constants[level[lo + i]]
            for c in range(size):
                total += active[i, c] * weight[c]
                on_outer[i, c] = weight[c]
            energies[lo + i] = total
        _silu_backward(outer[:n], on_outer[:n])
        _perceptron_backward(on_outer[:n], back, hidden[:n], on_normalized[:n])
        _normalize_backward(normalized[:n], f0, scale[:n], on_normalized[:n], grad[lo:hi])
        _perceptron(normalized[:n], charge_layers, charge_hidden[:n], charges[lo:hi])
