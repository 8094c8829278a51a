"""Removes conformers that are the same minimum: nearly equal energy and nearly equal positions.

Hydrogens on carbon are left out, which follow from the other atoms but for the turns of methyl groups; those of
hydroxyl, amine and thiol groups tell rotamers apart, such as the three of ethanol.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rdkit import Chem
from rdkit.Chem import rdMolAlign

from consistent_calc.units import KCAL_PER_MOL

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Conformers whose energies differ by more (kcal/mol) are different minima whatever their RMSD.
ENERGY_WINDOW = 0.1
#: Norm of the displacements (Angstrom) below which conformers are taken to lead to the same minimum.
SAME_BASIN = 0.7
#: Bound on the atom permutations that are tried; three CF3 groups alone have 216. It is higher for what has been
#: relaxed, where few pairs are near in energy and a permutation that is missed leaves a duplicate.
MAX_MATCHES, MAX_MATCHES_OF_MINIMA = 2000, 50_000


def heavy_atoms(mol: Mol) -> Mol:
    """A copy without hydrogens (all conformers kept); on hydrogens the number of permutations explodes."""
    parameters: Any = Chem.RemoveHsParameters()  # RDKit's stubs give its attributes a wrong type
    parameters.showWarnings = False
    return Chem.RemoveHs(mol, parameters)


def comparable(mol: Mol) -> Mol:
    """A copy without the hydrogens on carbon, and without bond orders and charges (all conformers kept).

    The two NH2 groups of an amidinium are alike, wherever the formula has its double bond and its charge: atoms are
    equivalent by element, connections and number of hydrogens, which becomes the isotope of a carbon.
    """
    out = Chem.RWMol(mol)
    out.BeginBatchEdit()
    for atom in out.GetAtoms():
        elements = [n.GetAtomicNum() for n in atom.GetNeighbors()]
        if atom.GetAtomicNum() == 6:
            atom.SetIsotope(1 + elements.count(1))
        elif atom.GetAtomicNum() == 1 and elements == [6]:  # not a lone H, which is the whole molecule
            out.RemoveAtom(atom.GetIdx())
        atom.SetFormalCharge(0)
        atom.SetIsAromatic(False)
    for bond in out.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
        bond.SetIsAromatic(False)
    out.CommitBatchEdit()
    return out.GetMol()


def best_rmsd(mol: Mol, first: int, second: int, max_matches: int = MAX_MATCHES) -> float:
    """RMSD of two conformers in Angstrom, over rotations and permutations of equivalent atoms.

    Args:
        mol: usually from :func:`heavy_atoms`; the first conformer is moved onto the second.
        first, second: conformer ids.
        max_matches: permutations that are tried at most.
    """
    return float(rdMolAlign.GetBestRMS(mol, mol, first, second, maxMatches=max_matches))


def unique_conformers(
    mol: Mol, energies: Sequence[float], *, rmsd: float = 0.125, energy_window: float = ENERGY_WINDOW
) -> list[int]:
    """Chooses one conformer a minimum, the lowest in energy.

    Mirror images count as different, as they are distinct minima: of ethanol there are two gauche forms.

    Args:
        mol: conformers with ids ``0 .. n-1``; not modified.
        energies: ``[n]``, eV.
        rmsd: RMSD of all atoms but hydrogens on carbon below which two conformers are the same, Angstrom.
        energy_window: kcal/mol; only pairs this close in energy are compared.

    Returns:
        Indices of the chosen conformers, by rising energy.
    """
    return _unique(comparable(mol), energies, rmsd, energy_window * KCAL_PER_MOL, MAX_MATCHES_OF_MINIMA)


def different_basins(
    mol: Mol, energies: Sequence[float], *, energy_window: float = math.inf, deadline: float = math.inf
) -> list[int]:
    """Chooses among conformers that are not yet relaxed one for each minimum that they seem to lead to.

    Args and result as in :func:`unique_conformers`; what has not been compared when ``time.monotonic()`` reaches the
    deadline is taken to be different. Two conformers seem to lead to the same minimum if the square root
    of the summed squared displacements of their atoms is below :data:`SAME_BASIN`. Unlike the mean, the sum shows a
    turned hydroxyl group in a large molecule as well as in a small one.
    """
    copy = comparable(mol)
    rmsd = SAME_BASIN / math.sqrt(max(copy.GetNumAtoms(), 1))
    return _unique(copy, energies, rmsd, energy_window * KCAL_PER_MOL, MAX_MATCHES, deadline)


def _unique(
    copy: Mol, energies: Sequence[float], rmsd: float, window: float, max_matches: int, deadline: float = math.inf
) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(energies)), key=lambda i: energies[i]):
        near = (j for j in reversed(kept) if energies[i] - energies[j] < window)
        if time.monotonic() >= deadline or not any(best_rmsd(copy, i, j, max_matches) < rmsd for j in near):
            kept.append(i)
    return kept
