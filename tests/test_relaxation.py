"""Batched relaxation on analytic surfaces: minima, independence of the batch, failures alone, bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from consistent_calc.errors import ConfigurationError, InvalidStructureError, UnknownLevelError
from consistent_calc.model_hessian import FLOOR, _torsions, model_hessian
from consistent_calc.relaxation import Relaxation, relax
from consistent_calc.structures import StructureBatch


@dataclass
class Forces:
    energy: Tensor
    forces: Tensor


class PairSurface:
    """Morse pairs between all atoms of a structure (well 1 eV at 1.5 Angstrom), with traps for the failure tests."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.largest_batch = 0
        self.batches: list[int] = []

    def predict(self, batch, *, level=None, forces=True, stress=False):
        if level == "unknown":
            raise UnknownLevelError("no such level")
        batch.validate(warn_odd_electrons=False)
        if bool((batch.numbers == 92).any()):
            raise InvalidStructureError("uranium is a trap")
        self.largest_batch = max(self.largest_batch, batch.n_atoms)
        self.batches.append(batch.n_graphs)
        x = batch.positions.detach().requires_grad_()
        energies = torch.stack([self.energy(x[batch.graph == g]) for g in range(batch.n_graphs)])
        (gradient,) = torch.autograd.grad(energies.sum(), x)
        poisoned = batch.numbers == 94
        return Forces(energies.detach(), torch.where(poisoned[:, None], torch.nan, -gradient))

    def energy(self, x):
        if len(x) == 1:
            return 0 * x.sum()
        r = torch.pdist(x)
        return ((1 - torch.exp(-1.5 * (r - 1.5))) ** 2 - 1).sum()


class Harmonic(PairSurface):
    """Every atom is tied to its place by a spring of a stiffness of its own."""

    def __init__(self, places: Tensor, stiffness: Tensor) -> None:
        super().__init__()
        self.places, self.stiffness = places, stiffness

    def energy(self, x):
        return 0.5 * (self.stiffness * (x - self.places).square()).sum()


def cluster(n: int, seed: int, z: int = 6) -> StructureBatch:
    """A cluster of ``n`` atoms near a compact grid."""
    grid = np.array([(i, j, k) for i in range(3) for j in range(3) for k in range(3)][:n], dtype=float)
    noise = np.random.default_rng(seed).normal(scale=0.15, size=grid.shape)
    return StructureBatch.from_arrays([z] * n, 1.5 * grid + noise)


def test_harmonic_wells_are_found_exactly():
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(6, 3, generator=generator, dtype=torch.float64) * 3
    stiffness = torch.rand(6, 3, generator=generator, dtype=torch.float64) * 60 + 0.5
    start = StructureBatch.from_arrays([6, 1, 8, 1, 1, 7], places + 0.3)
    result = relax(Harmonic(places, stiffness), start, fmax=1e-6)
    assert bool(result.converged.all())
    assert torch.allclose(result.batch.positions, places, atol=1e-5)
    assert float(result.energy[0]) < 1e-8
    assert float(result.initial_energy[0]) == pytest.approx(float((0.5 * stiffness * 0.09).sum()))


def test_two_atoms_reach_the_morse_minimum():
    start = StructureBatch.from_arrays([6, 6], [[0, 0, 0], [0, 0, 2.2]])
    result = relax(PairSurface(), start, fmax=1e-6)
    distance = (result.batch.positions[1] - result.batch.positions[0]).norm()
    assert float(distance) == pytest.approx(1.5, abs=1e-5)
    assert float(result.energy[0]) == pytest.approx(-1.0)


def test_a_batch_equals_its_structures_alone():
    parts = [cluster(n, seed) for seed, n in enumerate((4, 3, 2, 5, 1, 4))]
    together = relax(PairSurface(), StructureBatch.concatenate(parts), fmax=1e-4)
    for i, part in enumerate(parts):
        alone = relax(PairSurface(), part, fmax=1e-4)
        assert abs(int(alone.steps[0]) - int(together.steps[i])) <= 1
        assert float(alone.energy[0]) == pytest.approx(float(together.energy[i]), abs=1e-6)
        assert torch.allclose(together.batch[i].positions, alone.batch.positions, atol=1e-3)


def test_a_mixed_queue_keeps_order_and_bounds_the_batch():
    sizes = (3, 5, 4, 2, 5, 4, 2, 3, 1, 5)
    start = StructureBatch.concatenate([cluster(n, 100 + k) for k, n in enumerate(sizes)])
    model, free = PairSurface(), PairSurface()
    bounded = relax(model, start, fmax=1e-3, max_atoms_per_batch=11)
    assert model.largest_batch <= 11
    unbounded = relax(free, start, fmax=1e-3)
    assert bounded.batch.counts.tolist() == list(sizes)
    assert torch.allclose(bounded.energy, unbounded.energy, atol=1e-4)
    assert bool(bounded.converged.all())


def test_converged_structures_leave_the_batch():
    minimum = StructureBatch.from_arrays([6, 6], [[0, 0, 0], [0, 0, 1.5]])
    model = PairSurface()
    result = relax(model, StructureBatch.concatenate([minimum, cluster(8, 3), minimum]), fmax=1e-4)
    assert result.steps.tolist()[0::2] == [0, 0]
    assert model.batches[0] == 3
    assert set(model.batches[1:]) == {1}


def test_bad_structures_fail_alone_with_a_reason():
    nan = cluster(3, 0)
    nan = nan.with_positions(nan.positions * torch.nan)
    parts = [cluster(4, 1), cluster(3, 2, z=92), cluster(4, 3, z=94), nan, cluster(5, 4)]
    result = relax(PairSurface(), StructureBatch.concatenate(parts), fmax=1e-3)
    assert result.converged.tolist() == [True, False, False, False, True]
    assert result.failed[0] is None
    assert result.failed[4] is None
    assert result.failed[1] is not None
    assert "uranium" in result.failed[1]
    assert result.failed[2] is not None
    assert result.failed[2].startswith("non_finite")
    assert result.failed[3] is not None
    assert result.failed[3].startswith("invalid_structure")
    assert torch.isnan(result.energy[1:4]).all()


def test_an_error_of_the_job_is_not_a_failure_of_its_structures():
    with pytest.raises(UnknownLevelError):
        relax(PairSurface(), cluster(3, 0), level="unknown")


def test_steps_and_time_are_limited():
    start = StructureBatch.concatenate([cluster(10, 5), cluster(4, 6)])
    short = relax(PairSurface(), start, fmax=1e-8, max_steps=3)
    assert short.steps.tolist() == [3, 3]
    assert not bool(short.converged.any())
    assert short.failed == (None, None)
    assert bool((short.energy < short.initial_energy).all())
    late = relax(PairSurface(), start, max_time=0.0)
    assert all(reason is not None and "not started" in reason for reason in late.failed)
    assert torch.equal(late.batch.positions, start.positions)


def test_the_callback_streams_single_results():
    seen: dict[int, Relaxation] = {}
    start = StructureBatch.concatenate([cluster(n, n) for n in (2, 9, 5)])
    result = relax(PairSurface(), start, fmax=1e-3, callback=seen.__setitem__)
    assert sorted(seen) == [0, 1, 2]
    for i, one in seen.items():
        assert one.batch.n_graphs == 1
        assert torch.equal(one.batch.positions, result.batch[i].positions)
        assert float(one.energy[0]) == float(result.energy[i])


def test_an_interrupt_passes_through():
    def interrupt(index: int, done: Relaxation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relax(PairSurface(), cluster(3, 0), callback=interrupt)


def test_steps_that_raise_the_energy_are_taken_back():
    """A wall that the first full step would cross."""

    class Wall(PairSurface):
        def energy(self, x):
            r = (x[1] - x[0]).norm()
            return 0.3 * (r - 2.0) ** 2 + 200 * torch.relu(2.05 - r) ** 2

    start = StructureBatch.from_arrays([6, 6], [[0, 0, 0], [0, 0, 3.0]])
    result = relax(Wall(), start, fmax=1e-4)
    assert bool(result.converged[0])
    assert float(result.energy[0]) < 0.3 * 0.05**2 + 1e-6


def test_periodic_structures_keep_their_cell():
    cell = np.diag([30.0, 30.0, 30.0])
    start = StructureBatch.from_arrays([6] * 2, [[0, 0, 0], [0, 0, 1.9]], cell=cell, pbc=True)
    result = relax(PairSurface(), start, fmax=1e-4)
    assert bool(result.converged[0])
    assert torch.equal(result.batch.cell, start.cell)


def test_model_hessian_is_symmetric_positive_and_flat_along_rigid_motions():
    # Propyne: a linear chain and a methyl group.
    numbers = torch.tensor([[6, 6, 6, 1, 1, 1, 1, 0]])
    x = torch.zeros(1, 8, 3, dtype=torch.float64)
    x[0, :7] = torch.tensor(
        [
            [0, 0, 0],
            [1.46, 0, 0],
            [2.66, 0, 0],
            [3.72, 0, 0],
            [-0.36, 1.03, 0],
            [-0.36, -0.51, 0.89],
            [-0.36, -0.51, -0.89],
        ]
    )
    hessian = model_hessian(numbers, x)[0]
    assert torch.allclose(hessian, hessian.T)
    assert float(torch.linalg.eigvalsh(hessian).min()) >= FLOOR - 1e-9
    shift = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(8)
    turn = torch.linalg.cross(x[0], torch.tensor([[0.3, 0.5, -0.7]], dtype=torch.float64).expand(8, 3)).flatten()
    for rigid in (shift, turn):
        assert torch.allclose(hessian @ rigid, FLOOR * rigid, atol=1e-2)
    bend = torch.zeros(8, 3, dtype=torch.float64)
    bend[1] = torch.tensor([0, 1.0, 0])
    assert float(bend.flatten() @ hessian @ bend.flatten()) > 1.0


def test_torsion_gradients_are_derivatives():
    def dihedral(x):
        b1, b2, b3 = x[1:] - x[:-1]
        n1, n2 = torch.linalg.cross(b1, b2), torch.linalg.cross(b2, b3)
        return torch.atan2((torch.linalg.cross(n1, n2) * b2).sum() / b2.norm(), (n1 * n2).sum())

    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    neighbors = torch.tensor([[1, -1], [0, 2], [1, 3], [2, -1]])
    atoms, _, gradient = _torsions(x, neighbors, torch.ones(4, 4, dtype=torch.float64))
    assert atoms.tolist() == [[0, 1, 2, 3]]
    assert torch.allclose(gradient[0], torch.autograd.functional.jacobian(dihedral, x))


def test_structures_too_large_for_the_dense_hessian(monkeypatch):
    monkeypatch.setattr("consistent_calc.relaxation.MAX_ATOMS", 5)
    start = StructureBatch.concatenate([cluster(8, 1), cluster(3, 2)])
    result = relax(PairSurface(), start, fmax=1e-3)
    assert bool(result.converged.all())


@pytest.mark.parametrize("options", [{"fmax": -0.1}, {"fmax": float("nan")}, {"max_steps": -1}])
def test_thresholds_that_nothing_meets_are_refused(options: dict[str, float]) -> None:
    batch = StructureBatch.from_arrays([1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(ConfigurationError, match="at least 0"):
        relax(PairSurface(), batch, **options)
