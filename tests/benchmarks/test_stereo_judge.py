"""The judge of stereochemistry of the conformer benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from measure import same_stereo
from rdkit import Chem
from rdkit.Chem import rdDistGeom


@pytest.mark.parametrize(
    ("asked", "embedded", "same"),
    [
        ("C[C@H](N)C(=O)O", "C[C@H](N)C(=O)O", True),
        ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", False),
        ("CC(N)C(=O)O", "C[C@@H](N)C(=O)O", True),
        ("C/C=C/Cl", "C/C=C\\Cl", False),
        ("C[S@](=O)CC", "C[S@@](=O)CC", False),
        # RDKit sees no stereochemistry of phosphines in 3D: the carbon alone counts.
        ("C[P@](CC)C[C@H](F)Cl", "C[P@](CC)C[C@H](F)Cl", True),
        ("C[P@](CC)C[C@H](F)Cl", "C[P@](CC)C[C@@H](F)Cl", False),
    ],
)
def test_what_was_asked_for_is_what_is_seen(asked: str, embedded: str, same: bool) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles(embedded))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    x = np.array([mol.GetConformer().GetPositions()] * 2)
    assert same_stereo(mol, asked, x) == [same, same]
