"""What is measured of the structures that the methods of ``methods.py`` make of one molecule."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from methods import Array, Outcome, gfn2_minimum, with_positions
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from consistent_calc import ConsistentModel, StructureBatch, relax
from consistent_calc.conformers.deduplicate import best_rmsd, heavy_atoms
from consistent_calc.errors import LabellingError
from consistent_calc.labelling.engine import Engine
from consistent_calc.units import KCAL_PER_MOL

#: Conformers whose energies are as close as this (kcal/mol) count once in the rank correlation.
SAME_ENERGY = 0.05


@dataclass(frozen=True)
class Judges:
    """What energies of one molecule are taken from.

    Attributes:
        model: our level.
        minima, single: GFN2-xTB, for relaxations and for single points.
        relaxes: whether GFN2 relaxes the first raw and the best final structure of each method.
    """

    model: ConsistentModel
    minima: Engine
    single: Engine
    relaxes: bool
    _minima: dict[bytes, tuple[Array, float] | None] = field(default_factory=dict, init=False)

    def minimum(self, mol: Chem.Mol, x: Array) -> tuple[Array, float] | None:
        """:func:`methods.gfn2_minimum`, once for a structure that several methods share."""
        key = x.tobytes()
        if key not in self._minima:
            self._minima[key] = gfn2_minimum(mol, x, self.minima)
        return self._minima[key]


def measure(
    mol: Chem.Mol, smiles: str, outcomes: dict[str, Outcome], judges: Judges, reference: Array | None
) -> dict[str, dict[str, Any]]:
    """Numbers of every method, ready for JSON; lists have one entry a sample.

    Args:
        mol: the molecule with hydrogens.
        smiles: with the stereochemistry that was asked for.
        outcomes: of :func:`methods.run_methods`.
        judges: for energies, all in kcal/mol.
        reference: the DFT structure ``[n_atoms, 3]``, or None.
    """
    out = {}
    for name, outcome in outcomes.items():
        out[name] = {"failure": outcome.failure, "seconds": outcome.seconds, "changed": outcome.changed}
        if outcome.failure is None:
            out[name] |= _structures(mol, smiles, outcome, reference) | _energies(mol, outcome, judges)
    return out


def _structures(mol: Chem.Mol, smiles: str, outcome: Outcome, reference: Array | None) -> dict[str, Any]:
    raw, final, best = outcome.raw, outcome.final, outcome.best
    found: dict[str, Any] = {
        "stereo_raw": same_stereo(mol, smiles, raw),
        "stereo_final": same_stereo(mol, smiles, final),
        "valid_raw": valid(mol, raw[0]),
        "valid_final": valid(mol, final[best]),
        "shifts": _mean_shifts(mol, raw, final),
    }
    if reference is not None:
        # The conformer that the method ranks first comes first.
        order = [best, *(k for k in range(len(final)) if k != best)]
        pairs = heavy_atoms(with_positions(mol, np.concatenate([reference[None], final[order]])))
        found["rmsd"] = [best_rmsd(pairs, 0, k + 1) for k in range(len(final))]
    return found


def _energies(mol: Chem.Mol, outcome: Outcome, judges: Judges) -> dict[str, Any]:
    best = outcome.final[outcome.best]
    relaxed = relax(judges.model, StructureBatch.from_rdkit([with_positions(mol, best[None])]), fmax=0.01)
    found: dict[str, Any] = {
        "own_best": float(relaxed.energy[0]) / KCAL_PER_MOL,
        "gfn2_at_own_best": _single(mol, relaxed.batch.positions.numpy(), judges.single),
    }
    if judges.relaxes:
        first, minimum = _single(mol, outcome.raw[0], judges.single), judges.minimum(mol, outcome.raw[0])
        found["strain"] = None if minimum is None or first is None else first - minimum[1]
        minimum = judges.minimum(mol, best)
        found["gfn2_best"] = None if minimum is None else minimum[1]
        last = _single(mol, best, judges.single)
        found["strain_final"] = None if minimum is None or last is None else last - minimum[1]
    if outcome.energies is not None:
        found["ranked"] = _ranked(mol, outcome.final, outcome.energies, judges.single)
    return found


def same_stereo(mol: Chem.Mol, smiles: str, x: Array) -> list[bool]:
    """Whether the stereochemistry perceived from each 3D structure is that of the SMILES, where it specifies any.

    RDKit does not perceive phosphorus with three neighbors; what the SMILES says of it is left out.
    """
    wanted = Chem.MolFromSmiles(smiles)
    for atom in wanted.GetAtoms():
        if atom.GetSymbol() == "P" and atom.GetDegree() == 3:
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    seen = with_positions(mol, x)
    out = []
    for k in range(len(x)):
        one = Chem.Mol(seen, confId=k)
        Chem.AssignStereochemistryFrom3D(one, k)
        out.append(Chem.RemoveHs(one).HasSubstructMatch(wanted, useChirality=True))
    return out


@lru_cache(maxsize=1)
def _busters() -> Any:
    from posebusters import PoseBusters

    busters = PoseBusters(config="mol")
    # Energies are judged by GFN2 and the model; PoseBusters' own estimate would cost the most time of all.
    busters.config["modules"] = [m for m in busters.config["modules"] if m["name"] != "Energy ratio"]
    return busters


def valid(mol: Chem.Mol, x: Array) -> bool:
    """Whether a structure passes PoseBusters' checks of bonds, angles, clashes and flatness."""
    return bool(_busters().bust([with_positions(mol, x[None])]).all(axis=None))


def _mean_shifts(mol: Chem.Mol, raw: Array, final: Array) -> dict[str, float]:
    """Mean absolute changes on relaxation: bonds in Angstrom, angles and torsions of heavy atoms in degrees."""
    a, b = with_positions(mol, raw), with_positions(mol, final)
    bonds = [(i.GetBeginAtomIdx(), i.GetEndAtomIdx()) for i in mol.GetBonds()]
    around = [[n.GetIdx() for n in atom.GetNeighbors()] for atom in mol.GetAtoms()]
    angles = [(i, j, k) for j, near in enumerate(around) for i in near for k in near if i < k]
    heavy = [atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()]
    torsions = [
        (i, j, k, m)
        for j, k in bonds
        for i in around[j]
        for m in around[k]
        if len({i, j, k, m}) == 4 and heavy[i] and heavy[m]
    ]
    sums: dict[str, list[float]] = {"bonds_A": [], "angles_deg": [], "torsions_deg": []}
    for p, q in zip(a.GetConformers(), b.GetConformers(), strict=True):
        sums["bonds_A"] += [abs(_length(p, *t) - _length(q, *t)) for t in bonds]
        sums["angles_deg"] += [abs(_angle(p, *t) - _angle(q, *t)) for t in angles]
        turns = [_torsion(p, *t) - _torsion(q, *t) for t in torsions]
        sums["torsions_deg"] += [abs((turn + 180) % 360 - 180) for turn in turns]
    return {key: float(np.nanmean(values)) for key, values in sums.items() if values}


_length, _angle, _torsion = rdMolTransforms.GetBondLength, rdMolTransforms.GetAngleDeg, rdMolTransforms.GetDihedralDeg


def _single(mol: Chem.Mol, x: Array, engine: Engine) -> float | None:
    numbers = np.array([a.GetAtomicNum() for a in mol.GetAtoms()])
    try:
        return engine.single_point(numbers, x, Chem.GetFormalCharge(mol)).energy / KCAL_PER_MOL
    except LabellingError:
        return None


def _ranked(mol: Chem.Mol, final: Array, energies: Array, single: Engine) -> list[tuple[float, float]]:
    """Own energy and GFN2's of the distinct conformers, kcal/mol."""
    rows: list[int] = []
    for k in np.argsort(energies):
        if not rows or energies[k] - energies[rows[-1]] > SAME_ENERGY:
            rows.append(int(k))
    judged = [(float(energies[k]), _single(mol, final[k], single)) for k in rows]
    return [(own, other) for own, other in judged if other is not None]
