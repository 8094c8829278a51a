"""Messages as compiled kernels, for training on a GPU: forward, backward and the derivative of the backward.

Most of the work of the network, and nearly all of its memory, are tensors of ``[n_edges, filters]``. Here they live
inside compiled functions and are never kept: the derivatives work them out anew from their small ingredients. Training
on forces differentiates twice, which ``torch.compile`` cannot do by itself; so both derivatives are written down as
functions (by ``torch.func``) and compiled one by one. The graph of one message is small and compiles in seconds, where
that of the whole network takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from consistent_calc.nn.layers import RelatedFilters
from consistent_calc.nn.layers import sum_messages as plain_messages

Tensors = tuple[Tensor, ...]
#: Receiver, sender and, if the molecular graph has a say, the kind of the pair.
Indices = tuple[Tensor, ...]


def sum_messages(
    node: Tensor,
    weight: Tensor,
    radial: Tensor,
    related: RelatedFilters | None,
    harmonics: list[Tensor],
    features: list[Tensor],
    edges: Tensor,
) -> list[Tensor]:
    """As :func:`consistent_calc.nn.layers.sum_messages`, twice differentiable."""
    receiver, sender = edges.unbind(0)
    indices: Indices = (receiver, sender)
    tensors: Tensors = (node, weight, radial, *harmonics, *features[1:])
    if related is not None:
        indices += (related.kinds,)
        tensors += (related.basis, related.weight, related.scale, related.shift)
    return list(_Message.apply(indices, features[0].shape[1], *tensors))


def _forward(indices: Indices, width: int, tensors: Tensors) -> Tensors:
    """``tensors``: node, weight, radial, harmonics, higher features and, with a kind, the four of the related pairs."""
    node, weight, radial, *others = tensors
    related = None
    if len(indices) == 3:
        basis, related_weight, scale, shift = others[-4:]
        others = others[:-4]
        related = RelatedFilters(basis, indices[2], related_weight, scale, shift)
    harmonics, higher = others[: len(others) // 2], others[len(others) // 2 :]
    features = [node[:, :width], *higher]  # of the scalars only the shape is used
    return tuple(plain_messages(node, weight, radial, related, harmonics, features, torch.stack(indices[:2])))


def _backward(indices: Indices, width: int, outer: Tensors, tensors: Tensors) -> Tensors:
    """Gradients of all tensors, given those of the outputs."""
    pull: Callable[[Tensors], Tensors] = torch.func.vjp(lambda *t: _forward(indices, width, t), *tensors)[1]
    return pull(outer)


def _double_backward(indices: Indices, width: int, outer: Tensors, both: Tensors, n_outputs: int) -> Tensors:
    """Gradients of the outputs' gradients and of all tensors, given those of :func:`_backward`'s results."""
    pull: Callable[[Tensors], Tensors]
    pull = torch.func.vjp(lambda *t: _backward(indices, width, t[:n_outputs], t[n_outputs:]), *both)[1]
    return pull(outer)


@cache
def _compiled(function: Callable[..., Tensors]) -> Callable[..., Tensors]:
    return torch.compile(function, dynamic=True, fullgraph=True)


def _detached(tensors: Tensors) -> Tensors:
    """Whether a tensor requires a gradient must not make another compilation."""
    return tuple(t.detach() for t in tensors)


class _Message(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Indices, width: int, *tensors: Tensor) -> Tensors:
        ctx.indices, ctx.width = indices, width
        ctx.save_for_backward(*tensors)
        return _compiled(_forward)(indices, width, _detached(tensors))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        found = _MessageBackward.apply(ctx.indices, ctx.width, len(outer), *outer, *ctx.saved_tensors)
        return None, None, *found


class _MessageBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Indices, width: int, n_outputs: int, *both: Tensor) -> Tensors:
        ctx.indices, ctx.width, ctx.n_outputs = indices, width, n_outputs
        ctx.save_for_backward(*both)
        both = _detached(both)
        return _compiled(_backward)(indices, width, both[:n_outputs], both[n_outputs:])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        both = _detached(ctx.saved_tensors)
        found = _compiled(_double_backward)(ctx.indices, ctx.width, _detached(outer), both, ctx.n_outputs)
        return None, None, None, *found
