"""The kernels for the CPU against the same sums in torch."""

from __future__ import annotations

import pytest
import torch

from consistent_calc.nn import fused
from consistent_calc.nn.layers import RelatedFilters, sum_messages

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


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("with_graph", [False, True])
def test_sums_are_those_of_torch(inputs, with_graph, threads, monkeypatch):
    monkeypatch.setattr(fused, "EDGES_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    inputs = inputs if with_graph else inputs | {"related": None}
    for found, expected in zip(fused.sum_messages(**inputs), sum_messages(**inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_nan_stays_nan(inputs):
    inputs["node"][0] = torch.nan
    assert fused.sum_messages(**inputs)[0].isnan().any()
