"""Agreement of the two heads on a structure."""

from __future__ import annotations

import pytest
import torch
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMultipleConfs

from consistent_calc.conformers import generate_conformers
from consistent_calc.conformers.agreement import score_force_cosines

SMILES = "OCCO"


@pytest.fixture
def mol():
    molecule = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    EmbedMultipleConfs(molecule, 3, randomSeed=1)
    return molecule


def positions(mol):
    return [torch.from_numpy(c.GetPositions()) for c in mol.GetConformers()]


def test_heads_that_agree_and_that_do_not(force_field, mol):
    model = force_field(SMILES)
    torch.testing.assert_close(score_force_cosines(model, mol, positions(mol)), torch.ones(3).double())
    agreeing = model.denoise
    model.denoise = lambda batch, sigma: 2 * batch.positions - agreeing(batch, sigma)
    torch.testing.assert_close(score_force_cosines(model, mol, positions(mol)), -torch.ones(3).double())


def test_with_the_network_each_structure_counts_alone(model, mol):
    # Whatever an untrained network says, it lies between -1 and 1 and does not depend on the company.
    x = positions(mol)
    together = score_force_cosines(model, mol, x)
    assert (together.abs() <= 1).all()
    alone = torch.cat([score_force_cosines(model, mol, [one]) for one in x])
    torch.testing.assert_close(together, alone)
    assert len(score_force_cosines(model, mol, [])) == 0


def test_it_is_a_tag(force_field):
    ensemble = generate_conformers(SMILES, n=2, model=force_field(SMILES), denoise=False)
    assert ensemble.properties(0)["score_force_cosine"] == "1.0000"
