"""A stand-in for the trained model: MMFF94s with the interface that conformer generation uses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from rdkit.Chem import AddHs, MolFromSmiles, rdForceFieldHelpers
from rdkit.Chem.rdDistGeom import EmbedMolecule
from torch import Tensor

from consistent_calc.errors import InvalidStructureError
from consistent_calc.model import ConsistentModel
from consistent_calc.units import KCAL_PER_MOL


@dataclass
class Forces:
    energy: Tensor
    forces: Tensor


class ForceFieldModel:
    """MMFF94s of a few known molecules, found by their lists of atomic numbers."""

    device = torch.device("cpu")
    dtype = torch.float64
    elements = (1, 6, 7, 8, 9, 16, 17)
    levels = ("MMFF94s",)
    references = torch.ones(1, len(elements))
    level_index, level_elements = ConsistentModel.level_index, ConsistentModel.level_elements

    def __init__(self, *smiles: str) -> None:
        self.fields = {}
        for text in smiles:
            mol = AddHs(MolFromSmiles(text))
            EmbedMolecule(mol, randomSeed=1)
            properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
            field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
            field.Initialize()
            self.fields[tuple(a.GetAtomicNum() for a in mol.GetAtoms())] = field

    def predict(self, batch, *, level=None, forces=True, stress=False):
        sizes = batch.counts.tolist()
        energies, gradients = [], []
        for z, x in zip(batch.numbers.split(sizes), batch.positions.split(sizes), strict=True):
            if tuple(z.tolist()) not in self.fields:
                raise InvalidStructureError("a molecule the stand-in does not know")
            field, flat = self.fields[tuple(z.tolist())], x.flatten().tolist()
            energies.append(field.CalcEnergy(flat))  # must come first: CalcGrad reads what CalcEnergy has set up
            gradients.append(torch.tensor(field.CalcGrad(flat), dtype=torch.float64).view(-1, 3))
        energy = torch.tensor(energies, dtype=torch.float64) * KCAL_PER_MOL
        return Forces(energy, -torch.cat(gradients) * KCAL_PER_MOL)

    def denoise(self, batch, sigma):
        """A structure head that agrees with the force."""
        forces = self.predict(batch).forces
        return batch.positions + 0.01 * forces


@pytest.fixture
def force_field():
    """The class of the stand-in model."""
    return ForceFieldModel


@pytest.fixture
def small_noise(monkeypatch):
    """Replaces the sampler, which needs a trained network, by a little seeded noise; returns the seeds it was given."""
    given: list[int] = []

    def refine(model, batch, *, sigma_start, n_steps, seeds):
        given.extend(seeds)
        noise = [
            torch.randn(int(n), 3, generator=torch.Generator().manual_seed(seed), dtype=batch.positions.dtype)
            for n, seed in zip(batch.counts, seeds, strict=True)
        ]
        return batch.positions + 0.02 * torch.cat(noise)

    monkeypatch.setattr("consistent_calc.diffusion.samplers.refine", refine)
    return given
