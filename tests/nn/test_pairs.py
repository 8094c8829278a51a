"""Pairs along the bonds against RDKit's topological distances."""

from __future__ import annotations

import pytest
import torch
from rdkit import Chem

from consistent_calc.molgraph import bond_table, stereo_table
from consistent_calc.nn.pairs import graph_pairs
from consistent_calc.nn.structure_head import (
    AROMATIC,
    CIS,
    DOUBLE,
    ONE_FOUR,
    ONE_THREE,
    SINGLE,
    TRANS,
    TRIPLE,
    UNRELATED,
)
from consistent_calc.structures import StructureBatch

ORDERS = {1.0: SINGLE, 1.5: AROMATIC, 2.0: DOUBLE, 3.0: TRIPLE}
NO_NEIGHBORS = torch.empty(2, 0, dtype=torch.int64)


def graph_of(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    numbers = [a.GetAtomicNum() for a in mol.GetAtoms()]
    positions = torch.arange(3.0 * len(numbers)).view(-1, 3)
    return mol, StructureBatch.from_arrays(numbers, positions, bonds=bond_table(mol), stereo=stereo_table(mol))


def table(batch, neighbors=NO_NEIGHBORS):
    """{(receiver, sender): kind}"""
    edges, kinds = graph_pairs(batch, neighbors)
    pairs = [tuple(pair) for pair in edges.T.tolist()]
    assert pairs == sorted(set(pairs))
    return dict(zip(pairs, kinds.tolist(), strict=True))


@pytest.mark.parametrize(
    "smiles",
    ["CC(=O)Oc1ccccc1C(=O)O", "C1CC1C#N", "C12C3C4C1C5C2C3C45", "C", "C[N+](C)(C)C", "C1CC2CC1C=C2", "O.CC", "[He]"],
)
def test_pairs_and_kinds(smiles):
    mol, batch = graph_of(smiles)
    found = table(batch)
    distance = Chem.GetDistanceMatrix(mol)
    n = mol.GetNumAtoms()
    assert set(found) == {(i, j) for i in range(n) for j in range(n) if 1 <= distance[i, j] <= 3}
    for (i, j), kind in found.items():
        if distance[i, j] == 1:
            assert kind == ORDERS[mol.GetBondBetweenAtoms(i, j).GetBondTypeAsDouble()]
        else:
            assert kind == {2: ONE_THREE, 3: ONE_FOUR}[int(distance[i, j])]


@pytest.mark.parametrize(("smiles", "kind"), [("F/C=C/Cl", TRANS), ("F/C=C\\Cl", CIS), ("FC=CCl", ONE_FOUR)])
def test_double_bonds(smiles, kind):
    mol, batch = graph_of(smiles)
    ends = [next(a.GetIdx() for a in mol.GetAtoms() if a.GetSymbol() == s) for s in ("F", "Cl")]
    found = table(batch)
    assert found[tuple(ends)] == found[tuple(ends[::-1])] == kind
    assert list(found.values()).count(kind) == (2 if kind != ONE_FOUR else 6 + 2)


def test_neighbors_join_as_unrelated():
    _, batch = graph_of("CCCCO")
    distance = Chem.GetDistanceMatrix(graph_of("CCCCO")[0])
    alone = table(batch)
    neighbors = torch.tensor([[0, 0, 4, 1], [1, 4, 0, 0]])
    found = table(batch, neighbors)
    assert distance[0, 4] == 4
    assert found == alone | {(0, 4): UNRELATED, (4, 0): UNRELATED}


def test_structures_of_a_batch_stay_apart():
    parts = [graph_of(s)[1] for s in ("CCO", "F/C=C/Cl", "[He]", "c1ccccc1")]
    joined = table(StructureBatch.concatenate(parts))
    expected, offset = {}, 0
    for part in parts:
        expected |= {(i + offset, j + offset): kind for (i, j), kind in table(part).items()}
        offset += part.n_atoms
    assert joined == expected
