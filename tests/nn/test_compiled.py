"""The compiled messages against the plain ones: values, first and second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from consistent_calc.nn import compiled
from consistent_calc.nn.layers import MessageSum, RelatedFilters
from consistent_calc.nn.layers import sum_messages as plain_messages

CHANNELS, FILTERS, RADIAL = (6, 4, 3), 6 + 2 * 4 + 2 * 3, 5


def arguments(n_atoms: int, n_edges: int, with_graph: bool, device: str = "cpu"):
    generator = torch.Generator().manual_seed(n_atoms)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device).requires_grad_()

    edges = torch.randint(0, n_atoms, (2, n_edges), generator=generator).to(device)
    features = [random(n_atoms, CHANNELS[0]), random(n_atoms, 3, CHANNELS[1]), random(n_atoms, 5, CHANNELS[2])]
    related = None
    if with_graph:
        kinds = torch.randint(0, 9, (n_edges,), generator=generator).to(device)
        related = RelatedFilters(random(n_edges, 7), kinds, random(FILTERS, 7), random(9, FILTERS), random(9, FILTERS))
    node, weight, radial = random(n_atoms, FILTERS), random(FILTERS, RADIAL), random(n_edges, RADIAL)
    return node, weight, radial, related, [random(n_edges, 3), random(n_edges, 5)], features, edges


def derivatives(messages: MessageSum, arguments) -> list[Tensor]:
    """The messages, the gradient of a function of them, and the gradient of a function of that."""
    node, weight, radial, related, harmonics, features, _ = arguments
    leaves = [node, weight, radial, *harmonics, *features[1:]]
    if related is not None:
        leaves += [related.basis, related.weight, related.scale, related.shift]
    out = messages(*arguments)
    first = torch.autograd.grad(sum((x + 0.1 * x * x).sin().sum() for x in out), leaves, create_graph=True)
    # As in training: the loss is a function of the gradient with respect to what depends on the positions.
    chosen = [first[0], *first[2:5]]
    second = torch.autograd.grad(sum((x * x).sum() for x in chosen), leaves)
    return [*out, *first, *second]


def assert_equal_derivatives(arguments) -> None:
    found, expected = derivatives(compiled.sum_messages, arguments), derivatives(plain_messages, arguments)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.detach().abs().max()))


@pytest.mark.parametrize("with_graph", [False, True])
def test_the_written_out_derivatives(monkeypatch: pytest.MonkeyPatch, with_graph: bool) -> None:
    """Without the compiler, which takes its time and is tested below."""
    monkeypatch.setattr(compiled, "_compiled", lambda function: function)
    assert_equal_derivatives(arguments(7, 40, with_graph))


@pytest.mark.slow
def test_compiled_for_several_sizes() -> None:
    for n_atoms, n_edges in ((7, 40), (12, 95), (31, 311)):
        assert_equal_derivatives(arguments(n_atoms, n_edges, with_graph=False))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("with_graph", [False, True])
def test_on_cuda(with_graph: bool) -> None:
    assert_equal_derivatives(arguments(31, 311, with_graph, "cuda"))
