"""Energies and their derivative with respect to the edge vectors on the CPU, written by hand.

The same numbers as autograd gives for :meth:`consistent_calc.model.ConsistentModel.atomic`, which for a molecule spends
most of its time on the way from one of two thousand operations to the next. Here a layer is two kernels
(:mod:`consistent_calc.nn.fused`, :mod:`consistent_calc.nn.fused_rows`), and two more for its derivative.
The weights are brought into the form that these take once, and again when they have changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from consistent_calc.nn import fused, fused_rows
from consistent_calc.nn.encoder import Encoder
from consistent_calc.nn.energy_head import EnergyHead
from consistent_calc.nn.fused import as_array, as_panels, first_edges, over_atoms, over_edges
from consistent_calc.nn.fused_edges import edge_functions, edge_functions_backward
from consistent_calc.nn.layers import LENGTH_EPS, Message, Update
from consistent_calc.simd import lanes_of

Array = NDArray[Any]

#: Atoms of molecules that go through the network together: molecules know nothing of each other, and what is kept of so
#: few stays in the cache.
ATOMS_AT_ONCE = 100


class Perceptron:
    """Weights of two maps with a SiLU between them, for a forward and a backward kernel.

    Args:
        first, second: the maps.
        normalization: a layer norm before them; its linear part becomes part of the first map.
        scale: factor of the output.
    """

    def __init__(self, first: nn.Module, second: nn.Module, normalization: nn.LayerNorm, scale: float = 1.0) -> None:
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        n = normalization.weight.shape[0]
        bias = first.bias + first.weight[:, :n] @ normalization.bias
        weight = torch.cat([first.weight[:, :n] * normalization.weight, first.weight[:, n:]], dim=1)
        biases = as_array(bias), as_array(second.bias * scale)
        self.forward = as_panels(weight.T), biases[0], as_panels(second.weight.T * scale), biases[1]
        self.backward = as_panels(second.weight * scale), as_panels(weight)


class MessageLayer:
    """Adds to the state what :class:`consistent_calc.nn.layers.Message` computes."""

    def __init__(self, layer: Message, widths: NDArray[np.int64]) -> None:
        self.widths, self.n_filters = widths, layer.filter.weight.shape[0]
        self.layers = Perceptron(layer.node[0], layer.node[2], layer.normalize, layer.scale)
        self.weight, self.transposed = as_panels(layer.filter.weight.T), as_panels(layer.filter.weight)
        self.unrelated = fused.unrelated(self.weight)
        self.lanes = lanes_of(self.weight.dtype, *widths)

    def node(self, state: Array) -> tuple[Array, tuple[Array, ...]]:
        """The part of the messages that belongs to their senders, and what its derivative needs."""
        f0, n, dtype = int(self.widths[0]), len(state), state.dtype
        kept = np.empty((n, f0), dtype), np.empty(n, dtype), np.empty((n, f0), dtype)
        node = np.empty((n, self.n_filters), dtype)
        over_atoms(fused_rows.node, n, f0, state, self.layers.forward, *kept, node)
        return node, kept

    def __call__(self, state: Array, edges: Edges, node: Array | None = None) -> tuple[Array, tuple[Any, ...]]:
        """The new state and what :meth:`back` needs; in the first layer ``node`` is known and higher features zero."""
        first = node is not None
        node, of_node = (node, ()) if node is not None else self.node(state)
        inputs = edges.sender, edges.radial, self.weight, edges.harmonics, node, state, self.widths, not first
        out = state.copy()
        over_edges(fused.forward, edges.start, *inputs, *self.unrelated, self.lanes, out)
        return out, (inputs, of_node)

    def back(self, grad: Array, edges: Edges, kept: tuple[Any, ...]) -> Array:
        """The gradient of the old state, which nobody needs for the first layer; adds to those of the edges."""
        inputs, of_node = kept
        out, on_node = grad.copy(), np.zeros_like(inputs[4])
        of_edges = self.lanes, self.transposed, grad, edges.on_radial, edges.on_harmonics
        over_edges(fused.backward, edges.start, *inputs, *of_edges, on_node, out)
        if of_node:
            f0 = int(self.widths[0])
            over_atoms(fused_rows.node_backward, len(grad), f0, on_node, self.layers.backward, *of_node, out)
        return out


class UpdateLayer:
    """Adds to the state what :class:`consistent_calc.nn.layers.Update` computes."""

    def __init__(self, layer: Update, widths: NDArray[np.int64]) -> None:
        self.widths = widths
        pairs = [torch.cat([*a.parameters(), *b.parameters()]) for a, b in zip(layer.left, layer.right, strict=True)]
        mlp = Perceptron(layer.mlp[0], layer.mlp[2], layer.normalize)
        self.forward = tuple(as_panels(x.T) for x in pairs), mlp.forward, as_panels(layer.products.weight.T)
        self.backward = tuple(map(as_panels, pairs)), mlp.backward, as_panels(layer.products.weight)
        self.lanes = lanes_of(self.backward[-1].dtype, *widths)

    def __call__(self, state: Array) -> tuple[Any, ...]:
        """Changes the state; gives what :meth:`back` needs."""
        widths, n, dtype = self.widths, len(state), state.dtype
        f0, higher = int(widths[0]), int(widths[1:].sum())
        kept = (
            tuple(np.empty((n * (2 * degree + 1), 2 * widths[degree]), dtype) for degree in range(1, len(widths))),
            np.empty((n, higher), dtype),
            np.empty((n, f0 + 2 * higher), dtype),
            np.empty((n, f0 + higher), dtype),
            np.empty(n, dtype),
            np.empty((n, f0), dtype),
        )
        over_atoms(fused_rows.update, n, widths, dtype.type(LENGTH_EPS), self.lanes, state, *self.forward, *kept)
        return kept

    def back(self, grad: Array, kept: tuple[Any, ...]) -> None:
        """Turns the gradient of the new state into that of the old one."""
        eps = grad.dtype.type(LENGTH_EPS)
        over_atoms(fused_rows.update_backward, len(grad), self.widths, eps, self.lanes, grad, *self.backward, *kept)


class Edges:
    """Edges sorted by receiver, their functions, and the gradients of these."""

    def __init__(self, edges: Tensor, n_atoms: int, radial: Tensor, harmonics: list[Tensor]) -> None:
        self.sender = as_array(edges[1])
        self.start = first_edges(edges[0], n_atoms)
        self.radial = as_array(radial)
        self.harmonics = as_array(torch.cat(harmonics, dim=1))
        self.on_radial = np.zeros_like(self.radial)
        self.on_harmonics = np.zeros_like(self.harmonics)


class Network:
    """Encoder and energy head in the form for this."""

    def __init__(self, encoder: Encoder, head: EnergyHead) -> None:
        modules = [*encoder.modules(), *head.modules()]
        self._places = [(m._parameters, name) for m in modules for name, x in m._parameters.items() if x is not None]
        self.made_from = self.source()
        self.widths = np.array(encoder.channels)
        self.size = sum((2 * degree + 1) * width for degree, width in enumerate(encoder.channels))
        elements = as_array(encoder.elements.weight)
        self.initial = np.zeros((len(elements), self.size), elements.dtype)
        self.initial[:, : len(elements[0])] = elements
        self.messages = [MessageLayer(layer, self.widths) for layer in encoder.messages]  # type: ignore[arg-type]
        self.updates = [UpdateLayer(layer, self.widths) for layer in encoder.updates]  # type: ignore[arg-type]
        #: What the first layer says of the elements.
        self.initial_node = self.messages[0].node(self.initial)[0]
        hidden = Perceptron(head.hidden[0], head.hidden[2], head.normalize)
        charges = Perceptron(head.charges[0], head.charges[2], head.normalize)
        readout = as_array(head.readout.weight), as_array(head.readout.bias)
        self.head = hidden.forward, hidden.backward, charges.forward, *readout

    def source(self) -> list[tuple[int, int]]:
        """Place and version of all weights of the modules; they differ from :attr:`made_from` after any change."""
        weights = (parameters[name] for parameters, name in self._places)
        # What was made in inference mode has no version, and cannot be changed outside of it.
        return [(x.data_ptr(), 0 if x.is_inference() else x._version) for x in weights if x is not None]

    def energies(self, state: Array, level: Array) -> tuple[Array, Array, Array]:
        """Atomic energies and their gradient, raw charges and their weights.

        Args:
            state: of the last layer.
            level: int64 ``[n_atoms]``.
        """
        energies, charges = np.empty(len(state), state.dtype), np.empty((len(state), 2), state.dtype)
        grad = np.zeros_like(state)
        f0 = int(self.widths[0])
        over_atoms(fused_rows.head, len(state), f0, state, *self.head, level, energies, charges, grad)
        return energies, grad, charges


#: Networks by energy head.
_networks: weakref.WeakKeyDictionary[EnergyHead, Network] = weakref.WeakKeyDictionary()


@torch.no_grad()  # to record how it is made would be wasted, and threads that do so at once can block one another
def _network(encoder: Encoder, head: EnergyHead) -> Network:
    """Made anew when any weight was moved, replaced or changed in place."""
    network = _networks.get(head)
    if network is None or network.source() != network.made_from:
        network = _networks[head] = Network(encoder, head)
    return network


def edge_gradients(
    encoder: Encoder,
    head: EnergyHead,
    vectors: Tensor,
    elements: Tensor,
    edges: Tensor,
    graph: Tensor,
    charge: Tensor,
    level: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :meth:`consistent_calc.model.ConsistentModel.edge_gradients`, for edges on the CPU with both directions of
    each pair, sorted by receiver, as those of :func:`consistent_calc.neighbors.neighbor_list`.

    The derivative of one direction of a pair may be given to the other; the sums that make forces and stress are right.
    """
    network = partial(_edge_gradients, _network(encoder, head), encoder)
    of_atoms = elements, graph, level[graph]
    offsets = [0, *torch.bincount(graph, minlength=len(charge)).cumsum(0).tolist()]
    if len(bounds := _bounds(offsets)) == 2:
        gradients, energies, charges = network(vectors, edges, charge, *of_atoms)
        return gradients, energies, head.neutralize(charges, graph, charge)
    first_edge = first_edges(edges[0], len(elements))

    def part(first: int, last: int) -> tuple[Tensor, ...]:
        begin, end = offsets[first], offsets[last]
        atoms, own = slice(begin, end), slice(first_edge[begin], first_edge[end])
        mine, graph, level = (x[atoms] for x in of_atoms)
        return network(vectors[own], edges[:, own] - begin, charge[first:last], mine, graph - first, level)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        parts = list(pool.map(part, bounds, bounds[1:]))
    gradients, energies, charges = (torch.cat(x) for x in zip(*parts, strict=True))
    return gradients, energies, head.neutralize(charges, graph, charge)


def _bounds(offsets: Sequence[int]) -> list[int]:
    """First molecules of the parts, and the number of molecules, from where the atoms of each begin, and the end."""
    n, bounds = len(offsets) - 1, [0]
    for k in range(1, n):
        if offsets[k + 1] - offsets[bounds[-1]] > ATOMS_AT_ONCE:
            bounds.append(k)
    return [*bounds, n]


@torch.no_grad()
def _edge_gradients(
    network: Network,
    encoder: Encoder,
    vectors: Tensor,
    edges: Tensor,
    charge: Tensor,
    elements: Tensor,
    graph: Tensor,
    level: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`edge_gradients`, all at once, with the level of each atom and charges that do not add up yet."""
    f0 = encoder.channels[0]
    functions = vectors, encoder.radial, encoder.degrees
    found = Edges(edges, len(elements), *edge_functions(*functions))
    rows = elements.numpy()
    state, node = network.initial[rows], network.initial_node[rows]
    kept = []
    spread = None
    for k, (message, update) in enumerate(zip(network.messages, network.updates, strict=True)):
        state, of_message = message(state, found, node if k == 0 else None)
        kept.append((of_message, update(state)))
        if k == 0 and bool(charge.any()):
            scalars = torch.from_numpy(state)[:, :f0]
            with torch.enable_grad():
                before = scalars.clone().requires_grad_()
                spread = encoder.spread_charge(before, graph, charge)
            scalars += spread
    energies, grad, charges = network.energies(state, level.numpy())
    for k, (of_message, of_update) in reversed(list(enumerate(kept))):
        if k == 0 and spread is not None:
            on_scalars = torch.from_numpy(grad)[:, :f0]
            on_scalars += torch.autograd.grad(spread, before, on_scalars)[0]
        network.updates[k].back(grad, of_update)
        grad = network.messages[k].back(grad, found, of_message)
    on_functions = torch.from_numpy(found.on_radial), torch.from_numpy(found.on_harmonics)
    gradients = edge_functions_backward(*functions, *on_functions)
    return gradients, torch.from_numpy(energies), torch.from_numpy(charges)
