"""Random nasty structures: every backend must agree with the brute-force oracle, edge by edge."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from consistent_calc.neighbors import NeighborList, neighbor_list
from consistent_calc.neighbors.binned import binned_pairs
from consistent_calc.neighbors.brute_force import brute_force_pairs
from consistent_calc.neighbors.open import open_pairs
from consistent_calc.neighbors.open_cpu import open_pairs_cpu
from consistent_calc.neighbors.vesin_cpu import vesin_pairs
from consistent_calc.structures import StructureBatch

_SETTINGS = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)

#: Pairs this close to the cutoff (Angstrom) are avoided: there, rounding decides.
_UNDECIDED = 1e-6


_PERIODICITY = st.sampled_from([(False,) * 3, (True,) * 3]) | st.tuples(*[st.booleans()] * 3)


@st.composite
def _cells(draw: st.DrawFn) -> np.ndarray:
    """Lattice vectors in rows: down to 1 Angstrom, up to strongly skewed, any orientation, either handedness."""
    lengths = [draw(st.floats(1.0, 12.0)) for _ in range(3)]
    skews = [draw(st.sampled_from([0.0, 0.0, 0.4, -0.9, 1.7])) for _ in range(3)]
    cell = np.diag(lengths)
    cell[1, 0], cell[2, 0], cell[2, 1] = np.multiply(skews, lengths[0])
    rotation, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 999))).normal(size=(3, 3)))
    return cell @ rotation if draw(st.booleans()) else cell


@st.composite
def _structures(draw: st.DrawFn, dtype: torch.dtype) -> StructureBatch:
    n_atoms = draw(st.integers(0, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    pbc = np.array(draw(_PERIODICITY))
    cell = draw(_cells())
    fractional = rng.uniform(0, 1, (n_atoms, 3))
    if draw(st.booleans()):  # unwrapped
        fractional += rng.integers(-1, 2, (n_atoms, 3))
    if draw(st.booleans()):  # on planes, so that atoms sit exactly at faces of the cell and of bins
        fractional = np.round(fractional * 2) / 2
    positions = fractional @ cell
    if draw(st.booleans()):  # no lattice vectors in open directions
        cell = np.where(pbc[:, None], cell, 0.0)
    return StructureBatch.from_arrays(np.ones(n_atoms), positions, cell=cell, pbc=pbc, dtype=dtype)


def _smallest_height(batch: StructureBatch) -> float:
    """Smallest distance between lattice planes (Angstrom), which bounds the number of images the oracle visits."""
    rows = torch.where(batch.pbc.unsqueeze(2), batch.cell.double(), 0.0)
    reciprocal = torch.linalg.pinv(rows, rtol=1e-9).norm(dim=1)
    return 1.0 / max(float(reciprocal.max()), 1e-3)


def _check_against_oracle(batch: StructureBatch, cutoff: float) -> None:
    cutoff = min(cutoff, 2.5 * _smallest_height(batch))
    double = batch.to(dtype=torch.float64)
    edges, shifts = brute_force_pairs(double, cutoff + _UNDECIDED)
    lengths = NeighborList(edges, shifts).vectors(double).norm(dim=1)
    assume(bool((lengths < cutoff - _UNDECIDED).all()))

    chosen = neighbor_list(batch, cutoff)
    results = {
        "chosen": (chosen.edges, chosen.shifts),
        "binned": binned_pairs(double, cutoff),
        "binned in small blocks": binned_pairs(double, cutoff, max_candidates=50),
    }
    if bool((batch.pbc.any(1) == batch.pbc.all(1)).all()):
        results["vesin"] = vesin_pairs(double, cutoff)
    if not bool(batch.pbc.any()):
        results["open"] = open_pairs(double, cutoff)
        results["open on the CPU"] = open_pairs_cpu(double, cutoff)
        results["open in small blocks"] = open_pairs(double, cutoff, max_candidates=20)
    for name, (found_edges, found_shifts) in results.items():
        assert found_edges.dtype == found_shifts.dtype == torch.int64, name
        assert torch.equal(found_edges, edges), name
        assert torch.equal(found_shifts, shifts), name


@_SETTINGS
@given(_structures(torch.float64), st.floats(0.5, 7.0))
def test_one_structure(batch: StructureBatch, cutoff: float) -> None:
    _check_against_oracle(batch, cutoff)


@_SETTINGS
@given(_structures(torch.float32), st.floats(0.5, 7.0))
def test_one_structure_in_single_precision(batch: StructureBatch, cutoff: float) -> None:
    _check_against_oracle(batch, cutoff)


@_SETTINGS
@given(st.lists(_structures(torch.float64), min_size=1, max_size=4), st.floats(0.5, 5.0))
def test_mixed_batches(parts: list[StructureBatch], cutoff: float) -> None:
    _check_against_oracle(StructureBatch.concatenate(parts), cutoff)


@_SETTINGS
@given(
    st.lists(st.sampled_from([0, 1, 2, 5, 20, 120, 230]), min_size=1, max_size=6),
    st.integers(0, 2**20),
    st.floats(0.5, 7.0),
)
def test_open_molecules_of_very_different_sizes(sizes: list[int], seed: int, cutoff: float) -> None:
    rng = np.random.default_rng(seed)
    parts = [
        StructureBatch.from_arrays(np.ones(n), rng.normal(scale=1.5 * n ** (1 / 3), size=(n, 3)) + 50 * rng.normal())
        for n in sizes
    ]
    _check_against_oracle(StructureBatch.concatenate(parts), cutoff)


@_SETTINGS
@given(_structures(torch.float64), st.floats(0.5, 7.0))
def test_every_edge_has_its_reverse_and_an_exactly_opposite_vector(batch: StructureBatch, cutoff: float) -> None:
    found = neighbor_list(batch, min(cutoff, 2.5 * _smallest_height(batch)))
    vectors = found.vectors(batch)
    rows = {
        (i, j, *s): v
        for (i, j), s, v in zip(found.edges.T.tolist(), found.shifts.tolist(), vectors.tolist(), strict=True)
    }
    for (i, j, x, y, z), vector in rows.items():
        assert rows[(j, i, -x, -y, -z)] == [-c for c in vector]
