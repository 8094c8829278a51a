"""The kernels for the CPU against the same sums in torch."""

from __future__ import annotations

import copy

import pytest
import torch

from consistent_calc.nn import fused
from consistent_calc.nn.kernels import PLAIN
from consistent_calc.nn.layers import RelatedFilters, sum_messages
from consistent_calc.structures import StructureBatch

KINDS = 4


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(params=[(8, 4, 3), (5, 7), (16, 8, 4, 2)])
def inputs(request):
    """Random numbers on the edges of a random symmetric graph, sorted by receiver; one atom has no neighbor."""
    torch.manual_seed(0)
    widths, n, size = request.param, 9, 6
    related = torch.rand(n, n) < 0.5
    related[:, 4] = False
    edges = (related & related.T).fill_diagonal_(False).nonzero().T
    lower, upper = edges.min(0).values, edges.max(0).values
    sign = torch.where(edges[0] < edges[1], 1.0, -1.0).double()[:, None]
    pair = lower * n + upper  # what depends on the distance is the same in both directions
    degrees = range(1, len(widths))
    n_filters = widths[0] + 2 * sum(widths[1:])
    basis = random(n * n, size)[pair]
    return {
        "node": random(n, n_filters),
        "weight": random(n_filters, size),
        "radial": random(n * n, size)[pair],
        "related": RelatedFilters(
            basis, torch.randint(0, KINDS, (len(pair),)), random(n_filters, size), *random(2, KINDS, n_filters)
        ),
        "harmonics": [random(n * n, 2 * k + 1)[pair] * sign**k for k in degrees],
        "features": [random(n, widths[0]), *(random(n, 2 * k + 1, widths[k]) for k in degrees)],
        "edges": edges,
    }


@pytest.mark.parametrize("with_graph", [False, True])
def test_sums_are_those_of_torch(inputs, with_graph):
    inputs = inputs if with_graph else inputs | {"related": None}
    for found, expected in zip(fused.sum_messages(**inputs), sum_messages(**inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def pair_gradients(function, inputs):
    """Gradients of a random combination of the sums; those of edges are added up over both directions of a pair."""
    leaves = [inputs["node"], inputs["radial"], *inputs["harmonics"], *inputs["features"][1:]]
    leaves = [x.clone().requires_grad_() for x in leaves]
    k = len(inputs["harmonics"])
    changed = {"node": leaves[0], "radial": leaves[1], "harmonics": leaves[2 : 2 + k], "related": None}
    out = function(**inputs | changed | {"features": [inputs["features"][0], *leaves[2 + k :]]})
    torch.manual_seed(1)
    gradients = torch.autograd.grad(sum((x * torch.randn_like(x)).sum() for x in out), leaves)
    receiver, sender = inputs["edges"]
    n = len(inputs["node"])
    reverse = (sender * n + receiver).argsort()
    parity = [1.0, *((-1.0) ** (degree + 1) for degree in range(k))]
    both = [g + s * g[reverse] for g, s in zip(gradients[1 : 2 + k], parity, strict=True)]
    return [gradients[0], *both, *gradients[2 + k :]]


@pytest.mark.parametrize("threads", [1, 3])
def test_gradients_are_those_of_torch(inputs, threads, monkeypatch):
    monkeypatch.setattr(fused, "EDGES_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found, expected = pair_gradients(fused.sum_messages, inputs), pair_gradients(sum_messages, inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("periodic", [False, True])
def test_predictions_of_the_model_are_those_of_torch(model, water, crystal, dtype, periodic, monkeypatch):
    model = copy.deepcopy(model).to(dtype)
    batch = StructureBatch.from_ase([crystal if periodic else water])
    found = model.predict(batch, stress=periodic)
    monkeypatch.setattr(model, "_kernels", lambda: PLAIN)
    expected = model.predict(batch, stress=periodic)
    tolerance = 1e-4 if dtype is torch.float32 else 1e-10
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.forces, expected.forces, rtol=1e-4, atol=tolerance)
    if periodic:
        torch.testing.assert_close(found.stress, expected.stress, rtol=1e-4, atol=tolerance)


def test_nan_stays_nan(inputs):
    inputs["node"][0] = torch.nan
    assert fused.sum_messages(**inputs)[0].isnan().any()
