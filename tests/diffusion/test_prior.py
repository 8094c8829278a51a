"""The harmonic prior against its analytic covariance: it is linear in its random numbers, so that is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from consistent_calc.diffusion.prior import BOND_LENGTH, TETHER, harmonic_positions
from consistent_calc.errors import InvalidStructureError
from consistent_calc.structures import StructureBatch

CHAIN = [(k, k + 1) for k in range(11)]
RING = [(k, (k + 1) % 6) for k in range(6)]
#: A ring with a tail, and a fragment of three atoms and one of a single one.
PIECES = [*RING, (0, 6), (6, 7), (8, 9), (9, 10)]
PIECE = [range(8), range(8, 11), [11]]


def graph(n, bonds):
    return StructureBatch.from_arrays([6] * n, torch.zeros(n, 3), bonds=[(i, j, 2) for i, j in bonds])


def linear_map(molecule):
    """``[n, n]``: positions for unit random numbers, one an entry of a batch."""
    n = molecule.n_atoms
    normal = torch.eye(n, dtype=torch.float64)[:, :, None] * torch.tensor([1.0, 0.0, 0.0])
    x = harmonic_positions(StructureBatch.concatenate([molecule] * n), normal.reshape(-1, 3))
    assert not x[:, 1:].any()
    return x[:, 0].reshape(n, n).T


def covariance(molecule):
    matrix = linear_map(molecule)
    return matrix @ matrix.T


def rms_distance(molecule, i, j):
    c = covariance(molecule)
    return float(3 * (c[i, i] + c[j, j] - 2 * c[i, j])) ** 0.5


@pytest.mark.parametrize(("n", "bonds", "fragments"), [(12, CHAIN, [range(12)]), (12, PIECES, PIECE)])
def test_the_covariance_is_that_of_the_springs(n, bonds, fragments):
    precision = np.zeros((n, n))
    for i, j in bonds:
        precision[[i, j], [i, j]] += 1
        precision[[i, j], [j, i]] -= 1
    for fragment in fragments:
        for i in fragment:
            precision[i, i] += TETHER / len(fragment)
    center = np.eye(n) - 1 / n
    expected = BOND_LENGTH**2 / 3 * center @ np.linalg.inv(precision) @ center
    np.testing.assert_allclose(covariance(graph(n, bonds)).numpy(), expected, rtol=0, atol=1e-10)


def test_samples_have_this_covariance():
    molecule, n = graph(8, PIECES[:8]), 4000
    normal = torch.randn(8 * n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = harmonic_positions(StructureBatch.concatenate([molecule] * n), normal).reshape(n, 8, 3)
    torch.testing.assert_close(x.mean(1), torch.zeros(n, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    found = torch.einsum("nia,nja->ij", x, x) / (3 * n)
    expected = covariance(molecule)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * float(expected.max()))


def test_bonded_atoms_are_a_bond_apart_and_others_further():
    chain = graph(12, CHAIN)
    for i, j in CHAIN:
        assert rms_distance(chain, i, j) == pytest.approx(BOND_LENGTH, rel=0.03)
    # A random walk of 11 steps, a little held together.
    assert 0.8 < rms_distance(chain, 0, 11) / (BOND_LENGTH * 11**0.5) < 1
    # In a ring the two ways are springs side by side: stiffness 1 + 1/5.
    assert rms_distance(graph(6, RING), 0, 1) == pytest.approx(BOND_LENGTH * (5 / 6) ** 0.5, rel=0.02)


def test_fragments_stay_within_some_angstrom():
    pieces = graph(12, PIECES)
    for i, j in ((0, 11), (0, 9), (9, 11)):
        assert 3 < rms_distance(pieces, i, j) < 7
    # A single atom and the whole of twenty others.
    assert 3 < rms_distance(graph(21, [(k, k + 1) for k in range(19)]), 10, 20) < 7


def test_the_order_of_the_atoms_does_not_matter():
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    place = order.argsort().tolist()
    shuffled = graph(12, [(place[j], place[i]) for i, j in reversed(PIECES)])
    expected = covariance(graph(12, PIECES))[order][:, order]
    torch.testing.assert_close(covariance(shuffled), expected, rtol=0, atol=1e-10)


def test_others_in_the_batch_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    molecules = [graph(12, PIECES), graph(1, []), graph(6, RING), graph(12, CHAIN)]
    normal = [torch.randn(m.n_atoms, 3, generator=generator, dtype=torch.float64) for m in molecules]
    together = harmonic_positions(StructureBatch.concatenate(molecules), torch.cat(normal)).split([12, 1, 6, 12])
    for molecule, z, x in zip(molecules, normal, together, strict=True):
        torch.testing.assert_close(x, harmonic_positions(molecule, z), rtol=0, atol=1e-12)
    assert not together[1].any()


def test_the_dtype_is_that_of_the_batch_and_bonds_are_needed(batch):
    normal = torch.randn(17, 3, generator=torch.Generator().manual_seed(0))
    single, double = (harmonic_positions(batch.to(dtype=t), normal) for t in (torch.float32, torch.float64))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)
    with pytest.raises(InvalidStructureError, match="bonds"):
        harmonic_positions(StructureBatch.from_arrays([1, 1], [[0, 0, 0], [0, 0, 1]]), normal[:2])
