"""An untrained model with forces of a realistic size, and molecules; both shared by all tests."""

from __future__ import annotations

import os

# More threads than cores slow the tiny tensors of these tests down; must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule

from consistent_calc.model import ConsistentModel, ModelConfig
from consistent_calc.structures import StructureBatch

LEVELS = ("wB97M-D3/def2-TZVPP", "B3LYP/6-31G(2df,p)")
ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)


def _untrained(seed: int = 0) -> ConsistentModel:
    torch.manual_seed(seed)
    config = ModelConfig(elements=ELEMENTS, levels=LEVELS, channels=(16, 8, 4), n_layers=2)
    model = ConsistentModel(config).double().eval().requires_grad_(False)
    # A fresh network is nearly flat, and errors would hide below the thresholds. These factors give forces of some
    # eV/Angstrom and charges of some 0.1 e; the references make total energies as large as real ones.
    model.energy_head.readout.weight *= 300
    model.energy_head.charges[2].weight *= 5
    model.encoder.charge_embedding.weight *= 5
    reference = -27.2 * torch.tensor(ELEMENTS, dtype=torch.float64) ** 2
    model.references.copy_(torch.stack([reference, reference - 1.25]))
    return model


@pytest.fixture(scope="session")
def model() -> ConsistentModel:
    """An untrained model in float64. Shared: copy it before changing it."""
    return _untrained()


@pytest.fixture(scope="session")
def other_model() -> ConsistentModel:
    """The same with other weights."""
    return _untrained(seed=1)


@pytest.fixture(scope="session")
def mol() -> Chem.Mol:
    """(2R,3E)-2-aminopent-3-enoic acid, 17 atoms: a centre, a double bond, hydrogens, one conformer."""
    molecule = Chem.AddHs(Chem.MolFromSmiles("C/C=C/[C@H](N)C(=O)O"))
    assert EmbedMolecule(molecule, randomSeed=1) == 0
    return molecule


@pytest.fixture(scope="session")
def batch(mol: Chem.Mol) -> StructureBatch:
    """The same as a batch of one, with bonds and stereo tags."""
    return StructureBatch.from_rdkit(mol)


@pytest.fixture
def atoms(batch: StructureBatch) -> Atoms:
    """The same as ASE Atoms."""
    return batch.to_ase()[0]


@pytest.fixture
def water() -> Atoms:
    """Water, slightly distorted and off the origin."""
    return Atoms("OH2", positions=[[0.3, 0.1, 0.2], [1.25, 0.2, 0.1], [0.1, 1.05, 0.25]])


@pytest.fixture
def crystal() -> Atoms:
    """A rattled triclinic cell of carbon, smaller than the cutoff."""
    atoms = bulk("C") * (2, 1, 1)
    atoms.rattle(0.1, seed=3)
    strain = np.array([[1.03, 0.05, 0.0], [0.0, 0.98, 0.08], [0.01, 0.0, 1.04]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return atoms
