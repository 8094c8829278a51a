"""Importers on small inputs: units, graphs, split, and failures that are reported and do not stop the import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from consistent_calc.data import Split, Store, bucket_of_smiles
from consistent_calc.data.importers import (
    import_extxyz,
    import_organic_wb97m,
    import_qm9,
    import_rdb7,
    import_small_molecules,
)
from consistent_calc.data.importers import qm9 as qm9_module
from consistent_calc.data.importers.graph import fits_geometry, graph_of_geometry, molecule_of_smiles, numbers_of
from consistent_calc.errors import DataError
from consistent_calc.molgraph import stereo_satisfied
from consistent_calc.units import DEBYE, HARTREE, KCAL_PER_MOL


def embedded(smiles: str, seed: int = 7) -> tuple[Any, np.ndarray]:
    """Molecule with hydrogens and ETKDG positions relaxed by MMFF94."""
    from rdkit.Chem import AllChem

    mol = molecule_of_smiles(smiles)
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    AllChem.MMFFOptimizeMolecule(mol)
    return mol, mol.GetConformer().GetPositions()


def write_organic(path: Path, smiles: list[str], **changes: Any) -> Path:
    """An organic_wb97m file with two conformations a molecule: an ETKDG one, and a minimum with small forces."""
    columns: dict[str, list[Any]] = {}
    for s in smiles:
        mol, r = embedded(s)
        n = len(r)
        rows = {
            "smiles": [s.encode()],
            "source": [b"test"],
            "charge": [0],
            "bucket": [bucket_of_smiles(s)],
            "n_atoms": [n],
            "n_bonds": [mol.GetNumBonds()],
            "n_conformations": [2],
            "numbers": numbers_of(mol),
            "bonds": [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), 2) for b in mol.GetBonds()],
            "positions": np.concatenate([r, r + 0.01]),
            "forces": np.repeat([[5.0, 0, 0], [0.1, 0, 0]], n, axis=0),
            "partial_charges": np.zeros(2 * n),
            "energy": [-1.5, -2.5],
            "kind": [0, 1],
        }
        for name, value in (rows | changes).items():
            columns.setdefault(name, []).append(value)
    with h5py.File(path, "w") as file:
        for name, parts in columns.items():
            file[name] = np.concatenate(parts)
    return path


def test_organic_flags_minima_and_keeps_stereo(tmp_path: Path) -> None:
    one = write_organic(tmp_path / "1.h5", ["C[C@H](O)F", "C/C=C/C"])
    two = write_organic(tmp_path / "2.h5", ["CCO", "C/C=C/C"])
    report = import_organic_wb97m([one, two], tmp_path / "out.h5")
    assert (report.n_molecules, report.n_conformations, report.n_equilibrium) == (3, 6, 3)
    assert report.failures == [("C/C=C/C", "the SMILES occurs twice")]
    assert "3 molecules" in str(report)
    store = Store(tmp_path / "out.h5")
    data = store.read(*Split)
    assert store.level == "wB97M-D3/def2-TZVPP"
    assert "AIMNet2" in store.provenance
    assert data.kind.tolist() == [0, 1] * 3
    assert data.equilibrium.tolist() == [False, True] * 3
    batch, labels = data.batch(range(6), with_graph=True)
    assert len(batch.stereo) == 4
    assert stereo_satisfied(batch.positions, batch.stereo).all()
    assert labels.energy.tolist() == [-1.5, -2.5] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bucket": [3]}, "bucket differs"),
        ({"charge": [1]}, "charge differs"),
        ({"numbers": np.full(9, 6)}, "elements differ"),
        ({"bonds": np.array([(0, i, 2) for i in range(1, 9)])}, "bonds differ"),
    ],
)
def test_organic_entries_that_contradict_their_smiles_are_skipped(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = write_organic(tmp_path / "1.h5", ["CCO"], **changes)
    report = import_organic_wb97m([path], tmp_path / "out.h5")
    assert report.n_molecules == 0
    assert reason in report.failures[0][1]


def test_unreadable_input_is_a_data_error_and_leaves_no_store(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"nothing")
    out = tmp_path / "out.h5"
    for run in (
        lambda: import_organic_wb97m([bad], out),
        lambda: import_rdb7(bad, out),
        lambda: import_small_molecules([bad], out),
        lambda: import_extxyz(tmp_path / "absent.xyz", out, "level"),
    ):
        with pytest.raises(DataError, match="cannot be read"):
            run()
    assert list(tmp_path.iterdir()) == [bad]


def write_rdb7(path: Path, reactions: list[str]) -> Path:
    """A file of H-migrations in the way of RDB7: vinyl alcohol to acetaldehyde, with its real geometries."""
    _, reactant = embedded("C=CO")
    mol, product = embedded("CC=O")
    # Product atoms in the reactant's order: C1=C2-O3, H4 H5 on C1, H6 on C2, H7 moves from O3 to C1.
    order = [0, 1, 2, 3, 4, 6, 5]
    product = product[order]
    z = numbers_of(mol)[order]
    np.savez(
        path,
        Z=np.tile(z, len(reactions)),
        ptr=np.arange(len(reactions) + 1) * 7,
        pos_r=np.tile(reactant, (len(reactions), 1)),
        pos_ts=np.tile((reactant + product) / 2, (len(reactions), 1)),
        pos_p=np.tile(product, (len(reactions), 1)),
        rxn=np.arange(len(reactions)),
        smiles=np.array(reactions),
        dE0_ccsdtf12_kcal=np.full(len(reactions), 56.0),
    )
    return path


TAUTOMERISATION = (
    "[C:1](=[C:2]([O:3][H:7])[H:6])([H:4])[H:5]>>[C:1]([C:2](=[O:3])[H:6])([H:4])([H:5])[H:7]",
    "[C:1](=[C:2]([O:3][H:7])[H:6])([H:4])[H:5]>>[C:1]([C:2](=[O:3])[H:6])([H:4])([H:5])[H:9]",
)


def test_rdb7_keeps_a_reaction_on_one_side(tmp_path: Path) -> None:
    report = import_rdb7(write_rdb7(tmp_path / "r.npz", list(TAUTOMERISATION)), tmp_path / "out.h5")
    assert report.n_molecules == 3
    assert report.failures[0][0] == "reaction 1"
    data = Store(tmp_path / "out.h5").read(*Split)
    expected = max(bucket_of_smiles("C=CO"), bucket_of_smiles("CC=O"))
    assert data.bucket.tolist() == [expected] * 3
    assert data.kind.tolist() == [0, 1, 2]
    assert data.equilibrium.tolist() == [True, False, True]
    assert np.diff(data.bond_offset).tolist() == [6, 0, 6]
    batch, labels = data.batch([0, 1, 2], with_graph=True)
    assert labels.energy is None
    assert not labels.forces.any()
    np.testing.assert_allclose(data.barrier, 56.0 * KCAL_PER_MOL)
    lengths = (batch.positions[batch.bonds[:, 0]] - batch.positions[batch.bonds[:, 1]]).norm(dim=1)
    assert 0.9 < lengths.min()
    assert lengths.max() < 1.6


def test_small_molecules_units(tmp_path: Path) -> None:
    mol, r = embedded("CC#N")
    values = {
        "smiles": np.array(["CC#N"]),
        "n_atoms": [len(r)],
        "numbers": numbers_of(mol),
        "positions": r,
        "forces_kcal": np.full((len(r), 3), 2.0),
        "energy_kcal": [-100.0],
        "dipole": [[4.0, 0.0, 0.0]],
    }
    np.savez(tmp_path / "a.npz", **values)
    report = import_small_molecules([tmp_path / "a.npz"], tmp_path / "out.h5")
    assert (report.n_molecules, report.n_without_graph) == (1, 0)
    _, labels = Store(tmp_path / "out.h5").read(*Split).batch([0])
    assert labels.energy.item() == pytest.approx(-4.33641, rel=1e-5)
    assert labels.forces[0, 0].item() == pytest.approx(2 * KCAL_PER_MOL)
    assert labels.dipole.tolist()[0] == pytest.approx([4 * DEBYE, 0, 0])


def qm9_row(smiles: str, r: np.ndarray, symbols: list[str]) -> tuple[str, ...]:
    positions = str(r.tolist()).replace(" ", "").replace(".0,", ".,").replace(".0]", ".]")
    return ("x.xyz", smiles, str(symbols), positions, "0.044749", "-40.47893")


def test_qm9_energy_is_electronic_and_stereo_that_of_the_geometry() -> None:
    mol, r = embedded("C[C@H](O)F")
    symbols = [a.GetSymbol() for a in mol.GetAtoms()]
    _, record, _ = qm9_module._prepare(qm9_row("CC(O)F", r.round(6), symbols))
    assert record is not None
    assert record.equilibrium
    assert not np.any(record.forces)
    assert record.energy[0] == pytest.approx((-40.47893 - 0.044749) * HARTREE)
    assert len(record.stereo) == 1
    assert stereo_satisfied(torch.tensor(r), torch.tensor(record.stereo)).all()
    _, other, _ = qm9_module._prepare(qm9_row("COCF", r, symbols))
    assert other is not None
    assert other.bonds is None
    assert not other.equilibrium
    assert qm9_module._prepare(qm9_row("C1CC", r, symbols))[1:] == (None, "RDKit cannot read the SMILES 'C1CC'.")


def test_qm9_zwitterions_are_perceived_from_the_geometry() -> None:
    mol, r = embedded("[NH3+]CC([O-])=O")
    order = np.array([1, 0, 2, 3, 4, 5, 6, 7, 8, 9])
    symbols = [mol.GetAtomWithIdx(int(i)).GetSymbol() for i in order]
    r = r[order]
    _, record, _ = qm9_module._prepare(qm9_row("[NH3+]CC([O-])=O", r, symbols))
    assert record is not None
    assert record.equilibrium
    assert len(record.bonds) == 9


def test_the_first_molecules_of_qm9(tmp_path: Path) -> None:
    try:
        qm9_module._data_folder()
    except ImportError:
        pytest.skip("qm9pack is not installed")
    report = import_qm9(tmp_path / "out.h5", limit=20, n_workers=1, progress=False)
    assert (report.n_molecules, report.n_equilibrium, report.failures) == (20, 20, [])
    data = Store(tmp_path / "out.h5").read(*Split)
    assert data.smiles[0] == "C"
    assert data.energy[0] == pytest.approx(-1102.7, abs=0.1)


def test_strained_carbons_are_no_targets() -> None:
    mol, r = embedded("CC12CC1(F)C2")
    assert fits_geometry(mol, r)
    assert not fits_geometry(mol, 2 * r)
    assert not fits_geometry(mol, 0.5 * r)
    assert not graph_of_geometry(mol, r).tags_met


EXTXYZ = """3
Properties=species:S:1:pos:R:3:forces:R:3 energy=-14.0 charge=-1 smiles="[OH-].[H]" pbc="F F F"
O 0 0 0 0 0 0.01
H 0 0 1 0 0 -0.01
H 0 1 0 0 0 0
3
Properties=species:S:1:pos:R:3 energy=-13.0 pbc="F F F"
O 0 0 0
H 0 0 1
H 0 nan 0
3
Properties=species:S:1:pos:R:3:forces:R:3 energy=-13.0 pbc="F F F"
O 0 0 0 0 0 3
H 0 0 1 0 0 -3
H 0 1 0 0 0 0
three
Properties=species:S:1:pos:R:3
O 0 0 0
3
Properties=species:S:1:pos:R:3:forces:R:3 pbc="F F F"
O 0 0 0.1 0 0 0
H 0 0 1 0 0 0
H 0 1 0 0 0 0
2
Properties=species:S:1:pos:R:3 Lattice="4 0 0 0 4 0 0 0 4" energy=-3.0 stress="1 0 0 0 1 0 0 0 1" pbc="T T F"
Cu 0 0 0
Cu 2 2 2
1
Properties=species:S:1:pos:R:3 Lattice="3 0 0 0 3 0 0 0 3" energy=-1.5 pbc="T T T"
Cu 0 0 0
2
Properties=species:S:1:pos:R:3 charge=0.5
H 0 0 0
"""


def test_extxyz_reports_bad_frames_and_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(EXTXYZ)
    report = import_extxyz(tmp_path / "a.xyz", tmp_path / "out.h5", "some/level")
    assert [f[0] for f in report.failures] == ["frame 1", "frame 3", "frame 7"]
    data = Store(tmp_path / "out.h5").read(*Split)
    assert data.level == "some/level"
    assert (data.n_molecules, len(data)) == (4, 5)
    assert data.charge.tolist() == [-1, 0, 0, 0]
    assert data.equilibrium.tolist() == [True, False, True, False, False]
    assert data.bucket[0] == bucket_of_smiles("[OH-].[H]")
    assert data.bucket[2] == data.bucket[3]
    batch, labels = data.batch(range(5))
    assert batch.pbc.tolist()[3:] == [[True, True, False], [True, True, True]]
    assert batch.cell[3].diagonal().tolist() == [4, 4, 4]
    assert not batch.cell[:3].any()
    np.testing.assert_array_equal(labels.energy, [-14, -13, np.nan, -3, -1.5])
    assert labels.forces[-1].isnan().all()
    assert labels.forces[0].tolist() == pytest.approx([0, 0, 0.01])


HYDROXIDE = """2
Properties=species:S:1:pos:R:3{columns} {info} pbc="F F F"
O 0 0 0 -1.2 0 0
H 0 0 1 0.2 0 0
"""
CHARGES = ":charges:R:1:rest:R:2"


@pytest.mark.parametrize(
    ("info", "charge"), [("total_charge=-1", -1), ("charge=-1 total_charge=1", -1), ("total_charge=1 charge=0", 0)]
)
def test_extxyz_knows_both_names_of_the_total_charge(tmp_path: Path, info: str, charge: int) -> None:
    (tmp_path / "a.xyz").write_text(HYDROXIDE.format(columns="", info=f"energy=-1.0 {info}"))
    import_extxyz(tmp_path / "a.xyz", tmp_path / "out.h5", "level")
    assert Store(tmp_path / "out.h5").read(*Split).charge.tolist() == [charge]


@pytest.mark.parametrize(
    ("columns", "info", "reason"),
    [
        (CHARGES, "energy=-1.0", "add up to -1.00 e, but the total charge is +0 e"),
        ("", "energy=-1.0 dipole=1.85", "dipole must be numbers of shape (3,)"),
        ("", 'energy="-1.0 -2.0"', "energy must be numbers of shape ()"),
        ("", "energy", "energy must be numbers of shape (), got bool"),
        (":forces:R:1:rest:R:2", "energy=-1.0", "forces must be numbers of shape (2, 3)"),
    ],
)
def test_extxyz_skips_labels_that_do_not_fit_their_frame(tmp_path: Path, columns: str, info: str, reason: str) -> None:
    good = HYDROXIDE.format(columns=CHARGES, info='energy=-1.0 charge=-1 dipole="0 0 1"')
    (tmp_path / "a.xyz").write_text(good + HYDROXIDE.format(columns=columns, info=info))
    report = import_extxyz(tmp_path / "a.xyz", tmp_path / "out.h5", "level")
    assert [entry for entry, _ in report.failures] == ["frame 1"]
    assert reason in report.failures[0][1]
    data = Store(tmp_path / "out.h5").read(*Split)
    assert data.partial_charges.tolist() == pytest.approx([-1.2, 0.2])
    assert data.dipole.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(("text", "reason"), [("", "is empty"), ("no XYZ\nat all\n", "frame 0: ")])
def test_extxyz_without_a_frame_leaves_the_store_that_is_there(tmp_path: Path, text: str, reason: str) -> None:
    source, out = tmp_path / "a.xyz", tmp_path / "out.h5"
    source.write_text(text)
    out.write_bytes(b"a good store")
    with pytest.raises(DataError, match=rf"No frame of .* can be used\. .*{reason}"):
        import_extxyz(source, out, "level")
    assert out.read_bytes() == b"a good store"
    assert set(tmp_path.iterdir()) == {source, out}


def test_raw_small_molecules(raw_data: Path, tmp_path: Path) -> None:
    report = import_small_molecules([raw_data / "small_mols_test.npz"], tmp_path / "out.h5")
    assert (report.n_molecules, report.n_without_graph, report.failures) == (595, 0, [])
    data = Store(tmp_path / "out.h5").read(*Split)
    batch, labels = data.batch(range(len(data)))
    assert 0.5 < labels.forces.pow(2).mean().sqrt() < 2
    assert 0.3 < labels.dipole.norm(dim=1).median() < 0.6
    net = torch.zeros(len(batch), 3).index_add(0, batch.graph, labels.forces)
    assert net.abs().max() < 0.02
