"""The script that makes seed structures of new molecules: graphs fit geometries, and no test molecule is made."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from data_examples import write_store
from rdkit import Chem, rdBase

from consistent_calc.data import MoleculeRecord, Split, Store
from consistent_calc.data.importers.graph import fits_geometry, molecule_of_smiles, numbers_of
from consistent_calc.molgraph import stereo_satisfied

KNOWN = ["CC(=O)Nc1ccc(OCC)cc1", "CCOC(=O)C1CCN(C)CC1", "CN(C)CCSc1ccccc1Cl", "NS(=O)(=O)c1ccc(CO)cc1", "CCNC(=O)CC#N"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "data")
    import new_molecules

    with rdBase.BlockLogs():
        yield new_molecules


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Stores of the known molecules; only their SMILES matter."""
    records = [MoleculeRecord(numbers=[1], positions=[[[0.0, 0, 0]]], smiles=s, bucket=0) for s in KNOWN]
    for name in ("organic.h5", "qm9.h5", "tiny.h5"):
        write_store(tmp_path / name, records)
    return tmp_path


@pytest.mark.parametrize(
    "smiles", ["OCC1OC(O)C(O)C(O)C1O", "CC=CC(C)(F)N=CC", "CC(=N)CCl", "CS(=O)CCC=C(F)Cl", "C1C2CC3CC1CC(F)(C2)C3Cl"]
)
def test_the_graph_of_a_record_fits_its_geometry(script: ModuleType, smiles: str) -> None:
    mol, kind = script.embedded(Chem.MolFromSmiles(smiles), seed=7, optimise=True)
    record = script.record_of(mol, kind, "test")
    target = molecule_of_smiles(record.smiles)
    assert np.array_equal(numbers_of(target), record.numbers)
    assert script.skeleton(Chem.MolFromSmiles(record.smiles)) == script.skeleton(Chem.MolFromSmiles(smiles))
    assert len(record.bonds) == target.GetNumBonds()
    # No stereochemistry is left open, and the SMILES written has that of the geometry.
    assert not [s for s in Chem.FindPotentialStereo(target) if s.specified != Chem.StereoSpecified.Specified]
    for x in record.positions:
        assert fits_geometry(target, x)
        assert stereo_satisfied(torch.from_numpy(x), torch.from_numpy(record.stereo)).all()
        assert np.array_equal(x, x.astype(np.float32))


def test_both_conformers_are_of_one_stereoisomer(script: ModuleType) -> None:
    mol, kind = script.embedded(Chem.MolFromSmiles("CC(F)CC(Cl)CCC(O)CC(C)CCCBr"), seed=3, optimise=False)
    assert kind == 0
    assert len(script.record_of(mol, kind, "test").positions) == 2


def test_test_molecules_and_their_ions_are_rejected(script: ModuleType) -> None:
    sulfonamides = [Chem.MolFromSmiles(f"NS(=O)(=O)c1ccc({'C' * n}Cl)cc1") for n in range(1, 60)]
    sides = [script.split_of_bucket(script.bucket(script.skeleton(mol))) for mol in sulfonamides]
    tested = sulfonamides[sides.index(Split.TEST)]
    anion = Chem.MolFromSmiles(Chem.MolToSmiles(tested).replace("NS", "[NH-]S", 1))
    assert script.split_of_bucket(script.bucket(script.skeleton(anion))) is not Split.TEST
    for mol in (tested, anion):
        with pytest.raises(script.Rejected, match="test side"):
            script.checked(mol, "chain")


@pytest.mark.parametrize("recipe", ["brics", "variation", "group", "peptide", "chain", "macrocycle", "sugar", "ion"])
def test_recipes_give_closed_shell_molecules(script: ModuleType, recipe: str) -> None:
    share, make = script.recipes(KNOWN)[recipe]
    assert share > 0
    charges: list[int] = []
    for seed in range(40):
        try:
            mol = make(random.Random(seed))
        except script.RecipeError:
            continue
        mol = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
        assert all(a.GetAtomicNum() and not a.GetNumRadicalElectrons() for a in mol.GetAtoms())
        assert len(Chem.GetMolFrags(mol)) == 1
        charges.append(Chem.GetFormalCharge(mol))
    assert len(charges) >= 5
    if recipe == "ion":
        assert {-1, 1} <= set(charges)


def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped(
    script: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "BENCHMARKS", data)
    for name, counts in (("once", (8,)), ("twice", (3, 8))):
        for n in counts:
            script.make(data, data / f"{name}.h5", minutes=1.0, n_molecules=n)
    once, twice = (Store(data / f"{name}.h5").read(*Split) for name in ("once", "twice"))
    assert once.n_molecules == 8
    for column in ("smiles", "source", "positions", "bucket", "kind", "bonds"):
        values: tuple[Any, Any] = getattr(once, column), getattr(twice, column)
        assert np.array_equal(*values), column
    assert not set(once.smiles) & {Chem.CanonSmiles(s) for s in KNOWN}
