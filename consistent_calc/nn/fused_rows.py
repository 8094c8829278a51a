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

from consistent_calc.jit import compiled
from consistent_calc.nn.fused_product import add_product, put_product

#: Atoms that go through a layer together: their features stay in the cache.
CHUNK = 32


@compiled
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


@compiled
def _repeat(row, out):  # type: ignore[no-untyped-def]
    """One row in all rows; numba's assignment does it too, but takes four seconds to compile."""
    for i in range(len(out)):
        for c in range(len(row)):
            out[i, c] = row[c]


@compiled
def _perceptron(x, layers, hidden, out):  # type: ignore[no-untyped-def]
    """Two maps with a SiLU between them; ``hidden`` is what goes into it."""
    first, first_bias, second, second_bias = layers
    _repeat(first_bias, hidden)
    add_product(x, first, hidden)
    active = np.empty_like(hidden)
    _silu(hidden, active)
    _repeat(second_bias, out)
    add_product(active, second, out)


@compiled
def _perceptron_backward(grad, layers, hidden, out):  # type: ignore[no-untyped-def]
    second, first = layers
    on_hidden = np.empty_like(hidden)
    put_product(grad, second, on_hidden)
    _silu_backward(hidden, on_hidden)
    put_product(on_hidden, first, out)


@compiled
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


@compiled
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


@compiled
def _halves(row, begin, width):  # type: ignore[no-untyped-def]
    return row[begin : begin + width], row[begin + width : begin + 2 * width]


@compiled
def update(  # type: ignore[no-untyped-def]
    first, last, widths, eps, state, maps, layers, mixing, pairs, products, gates, hidden, scale, inner
):
    """Adds the update to the state, and keeps what :func:`update_backward` needs in the arrays after ``mixing``."""
    f0 = widths[0]
    higher = products.shape[1]
    scalars = np.empty((CHUNK, f0), state.dtype)
    gated = np.empty((CHUNK, higher), state.dtype)
    for lo in range(first, last, CHUNK):
        hi = min(lo + CHUNK, last)
        _normalize(state[lo:hi], f0, hidden[lo:hi], scale[lo:hi])
        row, place = f0, 0
        for degree in range(1, len(widths)):
            width, n = widths[degree], 2 * degree + 1
            pair = pairs[degree - 1][lo * n : hi * n]
            x = np.empty((len(pair), width), state.dtype)
            for i in range(hi - lo):
                for m in range(n):
                    here, there = x[i * n + m], state[lo + i, row + m * width : row + (m + 1) * width]
                    for c in range(width):
                        here[c] = there[c]
            put_product(x, maps[degree - 1], pair)
            for i in range(lo, hi):
                length = hidden[i, f0 + place : f0 + place + width]
                product = products[i, place : place + width]
                length[:] = 0
                product[:] = 0
                for k in range((i - lo) * n, (i - lo + 1) * n):
                    left, right = _halves(pair[k], 0, width)
                    for c in range(width):
                        length[c] += right[c] * right[c]
                        product[c] += left[c] * right[c]
                for c in range(width):
                    length[c] = np.sqrt(length[c] + eps * eps) - eps
            row += n * width
            place += width
        _perceptron(hidden[lo:hi], layers, inner[lo:hi], gates[lo:hi])
        row, place = f0, 0
        for degree in range(1, len(widths)):
            width, n = widths[degree], 2 * degree + 1
            pair = pairs[degree - 1][lo * n : hi * n]
            for i in range(lo, hi):
                first_gate, second_gate = _halves(gates[i], f0 + 2 * place, width)
                product, mine = products[i, place : place + width], gated[i - lo, place : place + width]
                for c in range(width):
                    mine[c] = product[c] * second_gate[c]
                for m in range(n):
                    here, left = state[i, row + m * width : row + (m + 1) * width], pair[(i - lo) * n + m, :width]
                    for c in range(width):
                        here[c] += left[c] * first_gate[c]
            row += n * width
            place += width
        put_product(gated[: hi - lo], mixing, scalars)
        for i in range(lo, hi):
            here, gate, scalar = state[i], gates[i], scalars[i - lo]
            for c in range(f0):
                here[c] += gate[c] + scalar[c]


@compiled
def update_backward(  # type: ignore[no-untyped-def]
    first, last, widths, eps, grad, maps, layers, mixing, pairs, products, gates, hidden, scale, inner
):
    """Turns the gradient of the new state into that of the old one; all weights transposed."""
    f0 = widths[0]
    higher = products.shape[1]
    on_scalars = np.empty((CHUNK, f0), grad.dtype)
    on_gated = np.empty((CHUNK, higher), grad.dtype)
    on_gates = np.empty((CHUNK, gates.shape[1]), grad.dtype)
    on_hidden = np.empty((CHUNK, f0 + higher), grad.dtype)
    on_pairs = [np.empty((CHUNK * (2 * k + 3), x.shape[1]), grad.dtype) for k, x in enumerate(pairs)]
    for lo in range(first, last, CHUNK):
        hi = min(lo + CHUNK, last)
        for i in range(lo, hi):
            here, on_scalar, on_gate = grad[i], on_scalars[i - lo], on_gates[i - lo]
            for c in range(f0):
                on_scalar[c] = on_gate[c] = here[c]
        put_product(on_scalars[: hi - lo], mixing, on_gated)
        row, place = f0, 0
        for degree in range(1, len(widths)):
            width, n = widths[degree], 2 * degree + 1
            pair, on_pair = pairs[degree - 1][lo * n : hi * n], on_pairs[degree - 1]
            for i in range(lo, hi):
                on_first, on_second = _halves(on_gates[i - lo], f0 + 2 * place, width)
                first_gate, second_gate = _halves(gates[i], f0 + 2 * place, width)
                product, on_product = products[i, place : place + width], on_gated[i - lo, place : place + width]
                for c in range(width):
                    on_first[c] = 0
                    on_second[c] = on_product[c] * product[c]
                    on_product[c] *= second_gate[c]
                for m in range(n):
                    left, right = _halves(pair[(i - lo) * n + m], 0, width)
                    on_left, on_right = _halves(on_pair[(i - lo) * n + m], 0, width)
                    there = grad[i, row + m * width : row + (m + 1) * width]
                    for c in range(width):
                        on_first[c] += there[c] * left[c]
                        on_left[c] = there[c] * first_gate[c] + on_product[c] * right[c]
                        on_right[c] = on_product[c] * left[c]
            row += n * width
            place += width
        _perceptron_backward(on_gates[: hi - lo], layers, inner[lo:hi], on_hidden[: hi - lo])
        row, place = f0, 0
        for degree in range(1, len(widths)):
            width, n = widths[degree], 2 * degree + 1
            pair, on_pair = pairs[degree - 1][lo * n : hi * n], on_pairs[degree - 1]
            for i in range(hi - lo):
                slope = on_hidden[i, f0 + place : f0 + place + width]
                length = hidden[lo + i, f0 + place : f0 + place + width]
                for c in range(width):
                    slope[c] /= length[c] + eps
                for k in range(i * n, (i + 1) * n):
                    right, on_right = pair[k, width:], on_pair[k, width:]
                    for c in range(width):
                        on_right[c] += slope[c] * right[c]
            on_x = np.empty((len(pair), width), grad.dtype)
            put_product(on_pair[: len(pair)], maps[degree - 1], on_x)
            for i in range(hi - lo):
                for m in range(n):
                    here, there = grad[lo + i, row + m * width : row + (m + 1) * width], on_x[i * n + m]
                    for c in range(width):
                        here[c] += there[c]
            row += n * width
            place += width
        _normalize_backward(hidden[lo:hi], f0, scale[lo:hi], on_hidden[: hi - lo], grad[lo:hi])


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
