"""A set of molecules with their structures at three levels, and geometric errors of predicted structures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem

from consistent_calc import StructureBatch
from consistent_calc.data import Dataset, Split, Store

Array = NDArray[np.float64]

#: Automorphisms of the heavy atoms that are tried in an RMSD.
MAX_MATCHES = 200


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule of the evaluation.

    Attributes:
        source: its name in QM9.
        graph: batch of one with bonds and stereo tags; positions are those of PM6.
        pm6, accurate, dft: ``[n, 3]``, minima at PM6, wB97M-D3 (AIMNet2) and B3LYP, Angstrom.
        energy_pm6, energy_accurate: wB97M-D3 energies at the PM6 and at its own minimum, eV.
        bonds, angles, torsions: int64 ``[., 2]``, ``[., 3]``, ``[., 4]``; torsions of heavy atoms only.
        matches: int64 ``[n_matches, n_heavy]``, automorphisms of the heavy atoms.
    """

    source: str
    graph: StructureBatch
    pm6: Array
    accurate: Array
    dft: Array
    energy_pm6: float
    energy_accurate: float
    bonds: NDArray[np.int64]
    angles: NDArray[np.int64]
    torsions: NDArray[np.int64]
    matches: NDArray[np.int64]


def read_molecules(folder: Path, qm9: Path, side: Split, limit: int | None = None) -> list[Molecule]:
    """The molecules of a side that have structures at all three levels, in the order of the labelling."""
    pm6, at_pm6, minima = (Store(folder / f"{n}_{side}.h5").read(side) for n in ("pm6", "at_pm6", "minima"))
    dft = Store(qm9).read(side)
    rows = [{str(s): i for i, s in enumerate(d.source)} for d in (at_pm6, minima, dft)]
    out: list[Molecule] = []
    for i, source in enumerate(map(str, pm6.source)):
        if len(out) == limit:
            break
        if any(source not in r for r in rows):
            continue
        a, m, d = (r[source] for r in rows)
        assert at_pm6.energy is not None
        assert minima.energy is not None
        graph = pm6.batch([i], with_graph=True)[0].to(dtype=torch.float64)
        if len(graph.bonds) == 0:
            continue
        structures = (_positions(pm6, i), _positions(minima, m), _positions(dft, d))
        out.append(
            Molecule(source, graph, *structures, at_pm6.energy[a], minima.energy[m], *_internal_coordinates(graph))
        )
    return out


def _positions(data: Dataset, i: int) -> Array:
    return data.positions[data.row_offset[i] : data.row_offset[i + 1]].astype(np.float64)


def _internal_coordinates(graph: StructureBatch) -> tuple[NDArray[np.int64], ...]:
    """Bonds, angles, torsions and automorphisms of one molecule."""
    assert graph.bonds is not None
    table, numbers = graph.bonds.numpy(), graph.numbers.numpy()
    neighbors: list[list[int]] = [[] for _ in numbers]
    for i, j, _ in table.tolist():
        neighbors[i].append(j)
        neighbors[j].append(i)
    angles = [(a, j, b) for j, around in enumerate(neighbors) for a in around for b in around if a < b]
    torsions = [
        (a, i, j, b)
        for i, j, _ in table.tolist()
        for a in neighbors[i]
        for b in neighbors[j]
        if a != j and b != i and a != b and min(numbers[[a, i, j, b]]) > 1
    ]
    return (
        table[:, :2],
        np.array(angles, dtype=np.int64).reshape(-1, 3),
        np.array(torsions, dtype=np.int64).reshape(-1, 4),
        _automorphisms(numbers, table),
    )


def _automorphisms(numbers: NDArray[np.int64], table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Permutations of the heavy atoms that keep elements and bonds (orders are ignored: carboxylates, arenes)."""
    heavy = np.flatnonzero(numbers > 1)
    index = {int(a): k for k, a in enumerate(heavy)}
    mol = Chem.RWMol()
    for a in heavy:
        mol.AddAtom(Chem.Atom(int(numbers[a])))
    for i, j, _ in table.tolist():
        if i in index and j in index:
            mol.AddBond(index[i], index[j], Chem.BondType.SINGLE)
    mol.UpdatePropertyCache(strict=False)
    # The implicit hydrogens of RDKit play no role: only elements and bonds are compared.
    matches = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=MAX_MATCHES)
    return heavy[np.array(matches)]


# ---------------------------------------------------------------------- errors


def rmsd(positions: Array, reference: Array, matches: NDArray[np.int64]) -> Array:
    """Heavy-atom RMSD ``[n_samples]`` in Angstrom over rotations and automorphisms; never over reflections.

    Args:
        positions: ``[n_samples, n_atoms, 3]``.
        reference: ``[n_atoms, 3]``.
        matches: ``[n_matches, n_heavy]``.
    """
    a = positions[:, matches[0]] if len(matches) else positions
    b = reference[matches]
    a = a - a.mean(1, keepdims=True)
    b = b - b.mean(1, keepdims=True)
    covariance = np.einsum("sni,mnj->smij", a, b)
    u, singular, vt = np.linalg.svd(covariance)
    singular[..., 2] *= np.sign(np.linalg.det(u @ vt))
    squares = (a**2).sum((1, 2))[:, None] + (b**2).sum((1, 2)) - 2 * singular.sum(-1)
    return np.sqrt(np.clip(squares.min(1), 0, None) / a.shape[1])


def bond_lengths(x: Array, bonds: NDArray[np.int64]) -> Array:
    """``[..., n_bonds]``, Angstrom."""
    return np.linalg.norm(x[..., bonds[:, 0], :] - x[..., bonds[:, 1], :], axis=-1)


def angle_values(x: Array, angles: NDArray[np.int64]) -> Array:
    """``[..., n_angles]``, degrees."""
    a, b = (x[..., angles[:, k], :] - x[..., angles[:, 1], :] for k in (0, 2))
    cosine = (a * b).sum(-1) / np.clip(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-9, None)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def torsion_values(x: Array, torsions: NDArray[np.int64]) -> Array:
    """``[..., n_torsions]``, degrees in (-180, 180]."""
    p = [x[..., torsions[:, k], :] for k in range(4)]
    b1, b2, b3 = p[1] - p[0], p[2] - p[1], p[3] - p[2]
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    y = (np.cross(n1, n2) * b2).sum(-1) / np.clip(np.linalg.norm(b2, axis=-1), 1e-9, None)
    return np.degrees(np.arctan2(y, (n1 * n2).sum(-1)))


def geometry_errors(positions: Array, reference: Array, molecule: Molecule) -> dict[str, Array]:
    """Errors of samples ``[n_samples, n_atoms, 3]``: RMSD, and mean absolute errors of internal coordinates."""
    turn = torsion_values(positions, molecule.torsions) - torsion_values(reference, molecule.torsions)
    turn = np.abs((turn + 180) % 360 - 180)
    bond = bond_lengths(positions, molecule.bonds) - bond_lengths(reference, molecule.bonds)
    angle = angle_values(positions, molecule.angles) - angle_values(reference, molecule.angles)
    nothing = np.full(len(positions), np.nan)
    return {
        "rmsd_A": rmsd(positions, reference, molecule.matches),
        "bond_mae_A": np.abs(bond).mean(1),
        "angle_mae_deg": np.abs(angle).mean(1) if len(molecule.angles) else nothing,
        "torsion_mae_deg": turn.mean(1) if len(molecule.torsions) else nothing,
    }


def shift(positions: Array, molecule: Molecule) -> tuple[Array, float]:
    """How far bond lengths go from the PM6 to the accurate ones, as the two parts of a ratio.

    Returns:
        For each sample the scalar product of (predicted - PM6) and (accurate - PM6) bond lengths, and the square of
        the latter. Sums over molecules give the ratio: 0 is PM6, 1 is accurate; noise and conformers cancel out.
    """
    pm6 = bond_lengths(molecule.pm6, molecule.bonds)
    wanted = bond_lengths(molecule.accurate, molecule.bonds) - pm6
    return (bond_lengths(positions, molecule.bonds) - pm6) @ wanted, float(wanted @ wanted)
