"""A toy store whose labels are physical: molecules of the same springs, with energies and forces that fit together."""

from __future__ import annotations

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule

from consistent_calc.data import MoleculeRecord
from consistent_calc.molgraph import bond_table, stereo_table

SMILES = ("CCO", "CC=O", "C[C@H](O)F", "CN", "C=CC", "OCC#N")
STIFFNESS = 20.0  # eV/Angstrom^2
ATOM_ENERGY = {1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2043.0, 9: -2713.0}

CONFIG = """
output = "run"
[model]
channels = [16, 8, 4]
n_layers = 2
[schedule]
steps = {steps}
warmup_steps = 2
learning_rate = 5e-3
ema_decay = 0.5
validation_structures = 10
[[energy]]
store = "toy.h5"
atoms = 40
[[structure]]
store = "toy.h5"
atoms = 20
"""


def springs(positions: np.ndarray, minimum: np.ndarray, bonds: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy (eV) and forces (eV/Angstrom) of harmonic bonds."""
    i, j = bonds[:, 0], bonds[:, 1]
    vector = positions[j] - positions[i]
    length = np.linalg.norm(vector, axis=1)
    stretch = length - np.linalg.norm(minimum[j] - minimum[i], axis=1)
    pull = (STIFFNESS * stretch / length)[:, None] * vector
    forces = np.zeros_like(positions)
    np.add.at(forces, i, pull)
    np.add.at(forces, j, -pull)
    return float(0.5 * STIFFNESS * (stretch**2).sum()), forces


def record(smiles: str, bucket: int, rng: np.random.Generator) -> MoleculeRecord:
    """A minimum and eight distorted conformations."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    EmbedMolecule(mol, randomSeed=1)
    minimum, bonds = mol.GetConformer().GetPositions(), bond_table(mol).numpy()
    positions = np.stack([minimum] + [minimum + rng.normal(size=minimum.shape) * 0.05 for _ in range(8)])
    energies, forces = zip(*(springs(p, minimum, bonds) for p in positions), strict=True)
    numbers = np.array([a.GetAtomicNum() for a in mol.GetAtoms()])
    return MoleculeRecord(
        numbers=numbers,
        positions=positions,
        smiles=smiles,
        bucket=bucket,
        bonds=bonds,
        stereo=stereo_table(mol).numpy(),
        equilibrium=[True] + [False] * 8,
        energy=np.array(energies) + sum(ATOM_ENERGY[int(z)] for z in numbers),
        forces=np.stack(forces),
        partial_charges=np.tile((numbers - numbers.mean()) / 50, (9, 1)),
    )
