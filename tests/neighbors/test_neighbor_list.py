"""Hand-made structures against ASE, gradients, bounded memory, errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list as ase_neighbor_list
from torch import Tensor

from consistent_calc.errors import InvalidStructureError
from consistent_calc.neighbors import SMALL_MOLECULE, NeighborList, neighbor_list
from consistent_calc.neighbors.binned import binned_pairs
from consistent_calc.neighbors.brute_force import brute_force_pairs
from consistent_calc.neighbors.open import open_pairs
from consistent_calc.neighbors.open_cpu import open_pairs_cpu
from consistent_calc.neighbors.vesin_cpu import vesin_pairs
from consistent_calc.structures import StructureBatch

Search = Callable[[StructureBatch, float], tuple[Tensor, Tensor]]


def _table(edges: Tensor, shifts: Tensor) -> np.ndarray:
    """Rows (i, j, three shifts)."""
    return torch.cat([edges.T, shifts], dim=1).cpu().numpy()


def _gas(n: int, seed: int = 0, side: float | None = None) -> StructureBatch:
    """Atoms at random places, at the density of water; periodic if a side is given."""
    length = side or (n / 0.1) ** (1 / 3)
    positions = np.random.default_rng(seed).uniform(0, length, (n, 3))
    return StructureBatch.from_arrays(
        np.ones(n), positions, cell=None if side is None else np.eye(3) * side, pbc=side is not None
    )


def _hand_cases() -> dict[str, tuple[Atoms, float]]:
    rotated = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    rotated.rattle(0.05, seed=1)
    rotated.rotate(37, (1, 2, 3), rotate_cell=True)
    left_handed = bulk("Ti", "hcp", a=2.95, c=4.68)
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    unwrapped = bulk("Si", "diamond", a=5.43)
    unwrapped.positions[1] += (3, -7, 2) @ unwrapped.cell.array
    slab = fcc111("Al", (2, 2, 3), vacuum=None)
    return {
        "fcc primitive cell": (bulk("Cu", "fcc", a=3.61), 5.0),
        "slab without a third vector": (slab, 5.0),
        "chain": (Atoms("CH2", [[0, 0, 0], [0.1, 1, 0], [0, 0, 1]], cell=[1.3, 0, 0], pbc=(True, False, False)), 5.0),
        "chain along y": (Atoms("C", [[0, 0, 0]], cell=[0, 1.2, 0], pbc=(False, True, False)), 6.0),
        "rotated": (rotated, 5.0),
        "left-handed": (left_handed, 5.0),
        "unwrapped": (unwrapped, 4.0),
        "one atom in a tiny box": (Atoms("He", [[5, 5, 5]], cell=[1.1, 0.9, 1.3], pbc=True), 4.0),
        "one atom": (Atoms("He", [[1, 2, 3]]), 5.0),
        "molecule": (molecule("C6H6"), 3.0),
        "molecule in an open box": (Atoms("H2", [[0, 0, 0], [0, 0, 9]], cell=[10, 10, 10], pbc=False), 5.0),
        "nothing": (Atoms(), 5.0),
        "very skewed": (Atoms("H2", [[0, 0, 0], [1, 1, 1]], cell=[[3, 0, 0], [8, 2, 0], [-7, 5, 2.5]], pbc=True), 3.5),
    }


@pytest.mark.parametrize("search", [neighbor_list, binned_pairs, vesin_pairs, brute_force_pairs])
@pytest.mark.parametrize("name", _hand_cases())
def test_equals_ase(name: str, search: Search) -> None:
    atoms, cutoff = _hand_cases()[name]
    if search is vesin_pairs and len(set(atoms.pbc.tolist())) > 1:
        pytest.skip("partially periodic")
    batch = StructureBatch.from_ase(atoms)
    found = search(batch, cutoff)
    table = _table(found.edges, found.shifts) if isinstance(found, NeighborList) else _table(*found)
    i, j, shifts = ase_neighbor_list("ijS", atoms, cutoff)
    expected = np.column_stack([i, j, shifts])
    np.testing.assert_array_equal(table, expected[np.lexsort(expected.T[::-1])])


def test_coordination_of_a_crystal_whose_shell_is_at_the_cutoff() -> None:
    crystal = StructureBatch.from_ase(bulk("Po", "sc", a=4.0))
    assert neighbor_list(crystal, 4.0).edges.shape[1] == 0
    assert neighbor_list(crystal, 4.0 + 1e-9).edges.shape[1] == 6


@pytest.mark.parametrize("search", [neighbor_list, binned_pairs, vesin_pairs])
def test_batch_of_everything_with_empty_structures(search: Search) -> None:
    empty = StructureBatch.from_arrays([], [])
    periodic = [StructureBatch.from_ase(bulk(z)) for z in ("Cu", "Ti", "Si")]
    batch = StructureBatch.concatenate([empty, _gas(3), periodic[0], empty, periodic[1], _gas(300), periodic[2], empty])
    found = search(batch, 4.5)
    table = _table(found.edges, found.shifts) if isinstance(found, NeighborList) else _table(*found)
    np.testing.assert_array_equal(table, _table(*brute_force_pairs(batch, 4.5)))


@pytest.mark.parametrize("n_structures", [0, 1, 3])
def test_no_atoms_at_all(n_structures: int) -> None:
    batch = StructureBatch(
        numbers=torch.empty(0, dtype=torch.int64),
        positions=torch.empty(0, 3),
        graph=torch.empty(0, dtype=torch.int64),
        cell=torch.zeros(n_structures, 3, 3),
        pbc=torch.zeros(n_structures, 3, dtype=torch.bool),
        charge=torch.zeros(n_structures),
    )
    found = neighbor_list(batch, 5.0)
    assert found.edges.shape == (2, 0)
    assert found.shifts.shape == (0, 3)
    assert found.vectors(replace(batch, cell=torch.zeros(1, 3, 3), charge=torch.zeros(1))).shape == (0, 3)


def test_coincident_atoms_are_neighbors() -> None:
    batch = StructureBatch.from_arrays([1, 1], np.zeros((2, 3)))
    for search in (open_pairs, open_pairs_cpu, binned_pairs, vesin_pairs):
        assert search(batch, 1.0)[0].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("search", [open_pairs, open_pairs_cpu, binned_pairs, vesin_pairs])
def test_open_structures_with_atoms_very_far_apart(search: Search) -> None:
    near = _gas(150)
    apart = near.positions + torch.tensor([3e6, -5e6, 1e6], dtype=torch.float64)
    batch = StructureBatch.from_arrays(np.ones(300), torch.cat([near.positions, apart]))
    edges, _ = search(batch, 5.0)
    once, _ = open_pairs(near, 5.0)
    assert torch.equal(edges, torch.cat([once, once + 150], dim=1))


@pytest.mark.parametrize("search", [binned_pairs, vesin_pairs])
def test_atoms_that_drifted_over_many_cells(search: Search) -> None:
    home = _gas(20, side=6.0)
    drift = torch.from_numpy(np.random.default_rng(1).integers(-100_000, 100_000, (20, 3)))  # their keys overflow
    away = home.with_positions(home.positions + drift * 6.0)
    edges, shifts = search(away, 4.0)
    back = shifts - drift[edges[0]] + drift[edges[1]]
    rows = _table(edges, back)
    np.testing.assert_array_equal(rows[np.lexsort(rows.T[::-1])], _table(*brute_force_pairs(home, 4.0)))
    np.testing.assert_array_equal(_table(edges, shifts), np.array(sorted(_table(edges, shifts).tolist())))


@pytest.mark.parametrize("limit", [1, 77, 5000])
def test_bounded_memory_changes_nothing(limit: int) -> None:
    molecules = StructureBatch.concatenate([_gas(n, seed=n) for n in (1, 40, 3, 90)])
    box = _gas(200, side=12.0)
    for search, batch in ((open_pairs, molecules), (binned_pairs, molecules), (binned_pairs, box)):
        whole = search(batch, 5.0)
        parts = search(batch, 5.0, max_candidates=limit)
        assert torch.equal(whole[0], parts[0])
        assert torch.equal(whole[1], parts[1])


def test_large_box_is_the_same_from_both_backends() -> None:
    box = _gas(5000, side=36.8)
    for a, b in zip(binned_pairs(box, 5.0), vesin_pairs(box, 5.0), strict=True):
        assert torch.equal(a, b)


def test_backends_agree_on_both_sides_of_the_size_that_selects_them() -> None:
    for n in (SMALL_MOLECULE, SMALL_MOLECULE + 1):
        found = neighbor_list(_gas(n), 5.0)
        np.testing.assert_array_equal(_table(found.edges, found.shifts), _table(*brute_force_pairs(_gas(n), 5.0)))


def test_sparse_chain_is_fast() -> None:
    positions = np.random.default_rng(0).uniform(-30, 30, (11, 3))
    chain = StructureBatch.from_arrays(
        np.ones(11), positions, cell=[[0, 0, 0], [4.3, 7.9, 0], [0, 0, 0]], pbc=(False, True, False)
    )
    start = time.perf_counter()
    neighbor_list(chain, 0.5)
    assert time.perf_counter() - start < 5.0  # vesin needs half a minute


# ---------------------------------------------------------------------- vectors and their gradients


def _mixed_batch() -> StructureBatch:
    slab = Atoms("CO", [[0, 0, 0], [0.3, 0.2, 1.2]], cell=[[2.1, 0, 0], [0.7, 1.9, 0], [0, 0, 0]], pbc=(1, 1, 0))
    crystal = Atoms("NaCl", [[0, 0, 0], [1.5, 1.4, 1.6]], cell=[[3, 0, 0], [0.5, 2.8, 0], [-0.3, 0.4, 3.1]], pbc=True)
    return StructureBatch.from_ase([slab, molecule("H2O"), crystal])


@pytest.mark.parametrize("batch", [_mixed_batch(), _mixed_batch()[2]], ids=["three structures", "one structure"])
def test_vectors_are_differentiable(batch: StructureBatch) -> None:
    neighbors = neighbor_list(batch, 2.7)
    assert neighbors.edges.shape[1] > 10

    def vectors(positions: Tensor, cell: Tensor) -> Tensor:
        return neighbors.vectors(replace(batch, positions=positions, cell=cell))

    variables = (batch.positions.clone().requires_grad_(), batch.cell.clone().requires_grad_())
    assert torch.autograd.gradcheck(vectors, variables)
    assert torch.autograd.gradgradcheck(lambda r, c: vectors(r, c).pow(3).sum(), variables)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_have_the_distances_of_ase_and_the_type_of_the_positions(dtype: torch.dtype) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.rattle(0.1, seed=0)
    batch = StructureBatch.from_ase(atoms, dtype=dtype)
    vectors = neighbor_list(batch, 5.0).vectors(batch)
    assert vectors.dtype == dtype
    expected = np.sort(ase_neighbor_list("d", atoms, 5.0))
    np.testing.assert_allclose(np.sort(vectors.norm(dim=1).numpy()), expected, atol=1e-5)


def test_list_is_made_without_gradient() -> None:
    batch = _mixed_batch()
    batch = replace(batch, positions=batch.positions.requires_grad_(), cell=batch.cell.requires_grad_())
    neighbors = neighbor_list(batch, 2.7)
    assert neighbors.vectors(batch).requires_grad
    assert not neighbors.shifts.requires_grad


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_cutoff(cutoff: float) -> None:
    with pytest.raises(ValueError, match="positive finite"):
        neighbor_list(_gas(3), cutoff)


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.zeros((3, 3)), True),
        (np.diag([4.0, 4.0, 0.0]), True),
        (np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]), True),
        (np.array([[1.0, 2, 0], [2, 4, 0], [0, 0, 1]]), (True, True, False)),
        (np.full((3, 3), np.nan), True),
    ],
)
def test_singular_cell(cell: np.ndarray, pbc: bool | tuple[bool, ...]) -> None:
    good = StructureBatch.from_ase(bulk("Cu"))
    bad = StructureBatch.from_arrays([1], np.zeros((1, 3)), cell=cell, pbc=pbc)
    with pytest.raises(InvalidStructureError, match="structure 1"):
        neighbor_list(StructureBatch.concatenate([good, bad]), 3.0)


def test_singular_cell_is_no_error_where_it_is_not_periodic() -> None:
    cell = np.array([[3.0, 0, 0], [3.0, 0, 0], [0, 0, 0]])
    batch = StructureBatch.from_arrays([1], np.zeros((1, 3)), cell=cell, pbc=(True, False, False))
    assert neighbor_list(batch, 4.0).shifts.tolist() == [[-1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_positions_not_finite(value: float) -> None:
    with pytest.raises(InvalidStructureError, match="NaN or infinite"):
        neighbor_list(StructureBatch.from_arrays([1, 1], [[0, 0, 0], [0, value, 0]]), 3.0)


# ---------------------------------------------------------------------- GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    molecules = StructureBatch.concatenate([_gas(n, seed=n) for n in (1, 18, 3, 90)])
    for batch in (molecules, _mixed_batch(), _gas(5000, side=36.8), _gas(300), StructureBatch.from_arrays([], [])):
        expected = neighbor_list(batch, 4.5)
        found = neighbor_list(batch.to("cuda"), 4.5)
        assert found.edges.is_cuda
        assert torch.equal(found.edges.cpu(), expected.edges)
        assert torch.equal(found.shifts.cpu(), expected.shifts)
