"""The molecules of the benchmark: QM9 molecules of the test buckets with their DFT structures, and drug-like ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from consistent_calc import StructureBatch
from consistent_calc.conformers import MoleculeInput, read_molecules
from consistent_calc.data import Split, Store

N_QM9 = 500
#: One drug-like molecule of so many is relaxed with GFN2-xTB.
JUDGED = 10
DRUG_LIKE = Path(__file__).parent / "drug_like.smi"


@dataclass(frozen=True, eq=False)
class Task:
    """One molecule with one seed.

    Attributes:
        mol: with hydrogens, without conformers; None if it is to be made of the SMILES.
        reference: its DFT structure in the atom order of ``mol``, or None.
        judged: whether GFN2-xTB relaxes structures of it, which takes minutes for a large molecule.
    """

    set: str
    name: str
    smiles: str
    mol: Any
    reference: NDArray[np.float64] | None
    seed: int
    judged: bool

    @property
    def key(self) -> str:
        """What marks it as done."""
        return f"{self.set} {self.name} {self.seed}"


def validation_molecules(path: Path, limit: int, min_heavy: int = 1) -> list[MoleculeInput]:
    """Random molecules of the validation side of a store, on which settings are chosen."""
    smiles = np.random.default_rng(0).permutation(Store(path).read(Split.VALIDATION).smiles)
    prepared = (entry for s in smiles for entry in read_molecules([str(s)]))
    large = (e for e in prepared if e.mol is not None and e.mol.GetNumHeavyAtoms() >= min_heavy)
    return list(itertools.islice(large, limit))


def qm9_tasks(path: Path, limit: int, seed: int) -> Iterator[Task]:
    """The same 500 molecules for every seed; their stereochemistry is that of their DFT structures."""
    data = Store(path).read(Split.TEST)
    rows = [i for i in range(data.n_molecules) if data.bond_offset[i + 1] > data.bond_offset[i]]
    for i in random.Random(0).sample(rows, N_QM9)[:limit]:
        mol = with_structure(str(data.smiles[i]), data.batch([i], with_graph=True)[0])
        if mol is None:
            raise ValueError(f"The structure of {data.source[i]} is not that of {data.smiles[i]}.")
        reference = mol.GetConformer().GetPositions()
        smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
        mol.RemoveAllConformers()
        yield Task("qm9", str(data.source[i]), smiles, mol, reference, seed, judged=True)


def with_structure(smiles: str, structure: StructureBatch) -> Chem.Mol | None:
    """The molecule of a SMILES with a structure whose atoms have another order, and the stereochemistry of that."""
    assert structure.bonds is not None
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    graph = Chem.RWMol()
    for number in structure.numbers.tolist():
        graph.AddAtom(Chem.Atom(number))
    for i, j, _ in structure.bonds.tolist():
        graph.AddBond(i, j, Chem.BondType.SINGLE)
    any_bonds = Chem.AdjustQueryParameters.NoAdjustments()
    any_bonds.makeBondsGeneric = True
    match = mol.GetSubstructMatch(Chem.AdjustQueryProperties(graph.GetMol(), any_bonds))
    if len(match) != mol.GetNumAtoms():
        return None
    positions = np.empty((len(match), 3))
    positions[list(match)] = structure.positions.double().numpy()
    conformer = Chem.Conformer(len(match))
    conformer.SetPositions(positions)
    mol.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(mol)
    return mol


def drug_like_tasks(limit: int, seed: int) -> Iterator[Task]:
    """The molecules of ``drug_like.smi``."""
    lines = [line for line in DRUG_LIKE.read_text().splitlines() if line and not line.startswith("#")]
    for k in np.unique(np.linspace(0, len(lines) - 1, min(limit, len(lines))).astype(int)):
        smiles, name = lines[k].split()[:2]
        yield Task("drug_like", name, smiles, None, None, seed, judged=k % JUDGED == 0)
