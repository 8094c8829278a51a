"""Energies and forces by hand against autograd's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from consistent_calc.forces import forces_from_edges
from consistent_calc.model import ConsistentModel, ModelConfig
from consistent_calc.nn import fused, fused_rows
from consistent_calc.nn.kernels import PLAIN
from consistent_calc.structures import StructureBatch

LEVELS = ("one", "two", "three")


def random_model(channels: tuple[int, ...]) -> ConsistentModel:
    """All weights random, those of the normalizations too."""
    torch.manual_seed(0)
    config = ModelConfig(elements=(1, 6, 7, 8, 13, 16), levels=LEVELS, channels=channels, radial_size=7, cutoff=4.0)
    found = ConsistentModel(config).double()
    with torch.no_grad():
        for weight in found.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return found


@pytest.fixture(params=[(16, 8, 4), (9, 7), (16, 8, 4, 2)], ids=str)
def model(request: pytest.FixtureRequest) -> ConsistentModel:
    return random_model(request.param)


@pytest.fixture
def batch() -> StructureBatch:
    """Neutral and charged molecules, a lone atom, a crystal: more atoms than go through a layer together."""
    names = ["CH3CH2OH", "CH3COOH", "C6H6", "CH3SH"]
    images = [molecule(name) for name in names] + [Atoms("H"), bulk("Al", cubic=True).repeat((2, 1, 1))]
    for image, charge in zip(images, [0, -1, 0, 1, -1, 0], strict=True):
        image.info["charge"] = charge
        image.rattle(0.05, seed=1)
    found = StructureBatch.from_ase(images)
    assert found.n_atoms > fused_rows.CHUNK
    return found


def evaluate(model: ConsistentModel, batch: StructureBatch, *, plain: bool) -> list[Tensor]:
    """Forces, atomic energies and charges of structures at different levels, by hand or in ``plain`` torch."""
    moved, neighbors, vectors, arguments = model.prepare(batch, None)
    arguments = *arguments[:-1], torch.arange(batch.n_graphs) % len(LEVELS)
    function = model.edge_gradients if plain else model.detached_edge_gradients
    gradients, energies, charges = function(vectors, *arguments)
    forces = forces_from_edges(gradients, neighbors.edges, moved.n_atoms)
    return [forces.detach(), energies.detach(), charges.detach()]


def assert_same(model: ConsistentModel, batch: StructureBatch, tolerance: float = 1e-10) -> None:
    for found, expected in zip(*(evaluate(model, batch, plain=plain) for plain in (False, True)), strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "EDGES_PER_THREAD", 1)
    monkeypatch.setattr(fused, "ATOMS_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


def test_the_same_as_by_autograd(model: ConsistentModel, batch: StructureBatch) -> None:
    assert_same(model, batch)
    assert_same(model.float(), batch, 2e-4)


@pytest.mark.usefixtures("three_threads")
def test_threads(batch: StructureBatch) -> None:
    assert_same(random_model((16, 8, 4)), batch)


def test_one_atom_without_neighbors() -> None:
    assert_same(random_model((16, 8, 4)), StructureBatch.from_ase(Atoms("O")))


def test_changed_weights_are_noticed(batch: StructureBatch) -> None:
    model, other = random_model((16, 8, 4)), random_model((16, 8, 4))
    before = evaluate(model, batch, plain=False)[1]
    with torch.no_grad():
        for weight in other.parameters():
            weight *= 1.1
        model.encoder.updates[1].mlp[0].weight.mul_(1.1)
    assert not torch.allclose(evaluate(model, batch, plain=False)[1], before)
    assert_same(model, batch)
    copied = copy.deepcopy(model)
    copied.load_state_dict(other.state_dict())
    assert_same(copied, batch)
    model.load_state_dict(other.state_dict(), assign=True)
    assert_same(model, batch)
    model.energy_head.readout.bias.data = torch.ones(len(LEVELS), dtype=torch.float64)
    assert_same(model, batch)


def test_stress(batch: StructureBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model((16, 8, 4))
    found = model.predict(batch, stress=True)
    monkeypatch.setattr(model, "_kernels", lambda: PLAIN)
    expected = model.predict(batch, stress=True)
    assert expected.stress is not None
    assert expected.stress.abs().max() > 0
    torch.testing.assert_close(found.stress, expected.stress, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-12, atol=1e-10)


def test_nan_stays_nan(batch: StructureBatch) -> None:
    model = random_model((16, 8, 4))
    with torch.no_grad():
        model.encoder.elements.weight[1] = torch.nan
    forces, energies, _ = evaluate(model, batch, plain=False)
    carbon = batch.numbers == 6
    assert forces[carbon].isnan().all()
    assert energies[carbon].isnan().all()


def test_threads_may_share_a_model(batch: StructureBatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = random_model((16, 8, 4))
    expected = evaluate(model, batch, plain=True)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: evaluate(model, batch, plain=False), range(8)):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-7)])
def test_silu(dtype: type, tolerance: float) -> None:
    x = np.concatenate([np.linspace(-60, 60, 2001), [-1e30, 1e30, np.nan]]).astype(dtype)[None]
    out, grad = np.empty_like(x), np.ones_like(x)
    fused_rows._silu(x, out)
    fused_rows._silu_backward(x, grad)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.silu(leaf)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    scale = np.maximum(1, np.abs(x[:, :-3]))
    assert np.max(np.abs(out - expected.detach().numpy())[:, :-3] / scale) < tolerance
    assert np.max(np.abs(grad - slope.numpy())[:, :-3] / scale) < tolerance
    assert abs(out[0, -3]) < 1e12
    assert out[0, -2] == x[0, -2]
    assert np.isnan(out[0, -1])
    assert np.isnan(grad[0, -1])
