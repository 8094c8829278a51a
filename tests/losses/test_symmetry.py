"""Equivalent atoms, against RDKit's automorphisms of the molecular graph."""

from __future__ import annotations

import pytest
import torch
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule

from consistent_calc.losses.frozen import FrozenEnergy
from consistent_calc.losses.structure import align
from consistent_calc.losses.symmetry import equivalent_sets, match_equivalent
from consistent_calc.molgraph import stereo_satisfied
from consistent_calc.structures import StructureBatch


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert EmbedMolecule(mol, randomSeed=1) == 0
    return mol, StructureBatch.from_rdkit(mol)


def draw(n, seed):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def groups(structures):
    """Sets as text: the elements of the bonded atom and of the set, such as ``CH3``."""
    partner = {a: b for i, j, _ in structures.bonds.tolist() for a, b in ((i, j), (j, i))}
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    found = []
    for sets in equivalent_sets(structures):
        for row in sets.tolist():
            (center,) = {partner[a] for a in row}
            (element,) = {int(structures.numbers[a]) for a in row}
            found.append(f"{symbol(int(structures.numbers[center]))}{symbol(element)}{len(row)}")
    return sorted(found)


class TestSets:
    @pytest.mark.parametrize(
        ("smiles", "expected"),
        [
            ("CCO", ["CH2", "CH3"]),
            ("NCC(F)(F)F", ["CF3", "CH2", "NH2"]),
            ("C=C", ["CH2", "CH2"]),
            ("CS(C)(=O)=O", ["CH3", "CH3", "SO2"]),
            ("O", ["OH2"]),
            ("C[N+](=O)[O-]", ["CH3"]),  # as written, the two oxygens differ
            ("CC(=O)[O-]", ["CH3"]),
            ("FC(Cl)Br", []),
            ("[H][H]", []),
            ("C", []),  # four hydrogens are left alone
            ("C[C@H]([2H])O", ["CH3"]),  # H and D are told apart by the stereo tag
        ],
    )
    def test_which(self, smiles, expected):
        assert groups(embedded(smiles)[1]) == expected

    def test_a_batch_has_the_sets_of_its_members(self):
        parts = [embedded(s)[1] for s in ("CCO", "CN", "O")]
        together = equivalent_sets(StructureBatch.concatenate(parts))
        offset, expected = 0, ([], [])
        for part in parts:
            for rows, sets in zip(expected, equivalent_sets(part), strict=True):
                rows += (sets + offset).tolist()
            offset += part.n_atoms
        assert [sorted(s.tolist()) for s in together] == [sorted(rows) for rows in expected]

    def test_no_bonds(self):
        ion = StructureBatch.from_arrays([11], torch.zeros(1, 3), bonds=[])
        assert [len(s) for s in equivalent_sets(ion)] == [0, 0]
        assert torch.equal(match_equivalent(ion.positions, ion.positions + 1, equivalent_sets(ion)), ion.positions)


class TestMatching:
    @pytest.mark.parametrize("smiles", ["CCO", "CN", "NCC(F)(F)F", "CC(=O)N"])
    def test_it_is_the_best_of_all_automorphisms(self, smiles):
        # In these molecules every automorphism exchanges atoms within the sets.
        mol, clean = embedded(smiles)
        automorphisms = torch.tensor(mol.GetSubstructMatches(mol, uniquify=False, maxMatches=10000))
        sets = equivalent_sets(clean)
        assert len(automorphisms) == torch.tensor([2, 6]).pow(torch.tensor([len(s) for s in sets])).prod()
        changed = 0
        for seed in range(10):
            noisy = clean.positions + 3.0 * draw(clean.n_atoms, seed)
            matched = match_equivalent(clean.positions, noisy, sets)
            costs = (clean.positions[automorphisms] - noisy).square().sum((1, 2))
            torch.testing.assert_close(matched, clean.positions[automorphisms[costs.argmin()]], rtol=0, atol=0)
            changed += int(not torch.equal(matched, clean.positions))
        assert changed > 3

    def test_exchanged_hydrogens_are_put_back(self):
        _, clean = embedded("CCO")
        pair, triple = (s[0] for s in equivalent_sets(clean))
        order = torch.arange(clean.n_atoms)
        order[pair], order[triple] = pair.flip(0), triple.roll(1)
        noisy = clean.positions[order] + 0.05 * draw(clean.n_atoms, 0)
        matched = match_equivalent(clean.positions, noisy, equivalent_sets(clean))
        assert torch.equal(matched, clean.positions[order])

    def test_molecule_energy_and_stereo_stay(self, model, batch):
        both = StructureBatch.concatenate([batch, batch])
        energy, reference = FrozenEnergy(model, both), FrozenEnergy(model, both)(both.positions)
        bonds = {frozenset(b[:2]): b[2] for b in both.bonds.tolist()}
        moved = 0
        for seed in range(8):
            noisy = both.positions + 0.8 * draw(both.n_atoms, seed)
            matched = match_equivalent(both.positions, noisy, equivalent_sets(both))
            assert bool(stereo_satisfied(matched, both.stereo).all())
            torch.testing.assert_close(energy(matched), reference, rtol=0, atol=1e-9)
            order = torch.cdist(matched, both.positions[:17]).argmin(1) + 17 * both.graph
            assert sorted(order.tolist()) == list(range(34))
            assert torch.equal(both.numbers[order], both.numbers)
            assert {frozenset(order[list(pair)].tolist()): kind for pair, kind in bonds.items()} == bonds
            moved += int((order != torch.arange(34)).any())
        assert moved > 0

    def test_the_target_never_moves_away(self, batch):
        sets = equivalent_sets(batch)
        for seed in range(10):
            noisy = batch.positions + (0.2 + 0.3 * seed) * draw(17, seed)
            first = align(batch.positions, noisy, batch.graph, 1)
            matched = match_equivalent(first, noisy, sets)
            last = align(matched, noisy, batch.graph, 1)
            before, between, after = ((x - noisy).square().sum() for x in (first, matched, last))
            assert before >= between >= after - 1e-12
            # Matching a second time to the same noise changes nothing but what the new alignment allows.
            assert torch.equal(match_equivalent(matched, noisy, sets), matched)
