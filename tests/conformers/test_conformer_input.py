"""Reading molecules: every entry gives a molecule or a typed failure, and nothing is changed in silence."""

from __future__ import annotations

import re

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from consistent_calc.conformers import ConformerOptions, read_molecules
from consistent_calc.conformers.input import count_entries
from consistent_calc.conformers.stereoisomers import MAX_ISOMERS
from consistent_calc.errors import ConfigurationError

ELEMENTS = (1, 6, 7, 8, 9)


def one(source, elements=ELEMENTS):
    (entry,) = read_molecules(source, elements=elements)
    return entry


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C1CC", "invalid_smiles"),
        ("CN(C)(C)(C)C", "invalid_smiles"),
        ("c1ccc1(", "invalid_smiles"),
        ("", "empty_molecule"),
        ("CC(=O)[O-].[Na+]", "multiple_fragments"),
        ("CCO.O", "multiple_fragments"),
        ("C[Si](C)(C)C", "unsupported_element"),
        ("C*", "unsupported_element"),
        ("[CH3]", "odd_electrons"),
        ("C[O]", "odd_electrons"),
        ("[CH2]", "odd_electrons"),
    ],
)
def test_bad_smiles_are_typed_failures(text, reason):
    entry = one(text)
    assert entry.mol is None
    assert entry.failure is not None
    assert entry.failure.reason == reason


def test_messages_tell_what_rdkit_saw_and_stay_off_stderr(capfd):
    assert "unclosed ring" in one("C1CC").failure.message
    assert "valence" in one("CN(C)(C)(C)C").failure.message
    assert "Si" in one("C[SiH3]").failure.message
    assert capfd.readouterr().err == ""


def test_charge_and_tautomer_are_kept():
    zwitterion = one("C[N+](C)(C)CC([O-])=O")
    assert Chem.GetFormalCharge(zwitterion.mol) == 0
    assert one("CC(=O)[O-]").mol is not None
    assert Chem.GetFormalCharge(one("CC(=O)[O-]").mol) == -1
    assert one("CC(O)=CC").smiles == "CC=C(C)O"


def test_all_hydrogens_are_explicit():
    assert one("CCO").mol.GetNumAtoms() == 9
    assert one(Chem.AddHs(Chem.MolFromSmiles("CCO"))).mol.GetNumAtoms() == 9


def test_ids_are_unique_whatever_the_names():
    entries = list(read_molecules(["C a", "CC a", "CCC a_2", "CCCC", "C1CC", "CCCCC molecule_4"]))
    ids = [entry.id for entry in entries]
    assert len(set(ids)) == len(ids)
    assert ids[:2] == ["a", "a_2"]
    assert [entry.name for entry in entries] == ["a", "a", "a_2", "", "", "molecule_4"]


def test_unspecified_stereo_is_noted():
    assert one("C[C@H](O)F").notes == ()
    assert "1 tetrahedral centre" in one("CC(O)F").notes[0]
    assert "1 double bond" in one("CC=CC").notes[0]
    assert one("CCO").notes == ()


def test_labels_on_atoms_that_are_no_centres_are_dropped():
    assert one("C[C@H](C)C").smiles == "CC(C)C"


def test_line_files(tmp_path):
    path = tmp_path / "list.smi"
    path.write_text("smiles name\n# a comment\nCCO ethanol\n\nC1CC broken\nCC\n")
    entries = list(read_molecules(path))
    assert [e.failure.reason if e.failure else e.smiles for e in entries] == ["CCO", "invalid_smiles", "CC"]
    assert next(read_molecules(str(path))).name == "ethanol"


def test_csv_files(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('ID,Smiles,other\nx1,CCO,"a,b"\nx2,xx,\nx3,,\n')
    entries = list(read_molecules(path))
    assert [e.id for e in entries] == ["x1", "x2", "x3"]
    assert [e.failure.reason if e.failure else None for e in entries] == [None, "invalid_smiles", "empty_molecule"]
    bare = tmp_path / "bare.csv"
    bare.write_text("a,b\n1,2\n")
    assert one(bare).failure.reason == "no_smiles_column"


def test_missing_and_foreign_sources_fail_alone(tmp_path):
    entries = list(read_molecules(["CCO", tmp_path / "none.sdf", 3, tmp_path / "x.xyz", "CC"]))
    reasons = [e.failure.reason if e.failure else None for e in entries]
    assert reasons == [None, "file_not_found", "invalid_molecule", "invalid_record", None]
    (packed := tmp_path / "a.smi.gz").write_bytes(b"")
    assert "Unknown kind of file" in one(str(packed)).failure.message


@pytest.mark.parametrize("three_d", [True, False])
@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "C/C=C/CO", "C/C=C\\CO"])
def test_stereo_is_read_from_sdf(tmp_path, smiles, three_d):
    mol = Chem.MolFromSmiles(smiles)
    if three_d:
        mol = Chem.AddHs(mol)
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    else:
        rdDepictor.Compute2DCoords(mol)
    mol.SetProp("_Name", "it")
    path = tmp_path / "mol.sdf"
    with Chem.SDWriter(str(path)) as writer:
        writer.write(mol)
    entry = one(path)
    assert entry.smiles == Chem.CanonSmiles(smiles)
    assert entry.name == "it"
    assert entry.mol.GetNumConformers() == 0


def test_a_broken_sdf_record_does_not_stop_the_file(tmp_path, capfd):
    good = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    bad = good.replace("  1  2  1", "  1 99  1")
    path = tmp_path / "mixed.sdf"
    path.write_text("$$$$\n".join([good, bad, good]) + "$$$$\n")
    entries = list(read_molecules(path))
    assert [e.failure.reason if e.failure else None for e in entries] == [None, "invalid_record", None]
    assert not re.search(r"\d\d:\d\d", entries[1].failure.message)  # RDKit's first line is the time
    assert capfd.readouterr().err == ""


def test_text_that_is_no_utf8_spoils_its_own_record_only(tmp_path):
    mol = Chem.MolFromSmiles("CCO")
    mol.SetProp("_Name", "m5X")
    latin = Chem.MolToMolBlock(mol).encode().replace(b"X", b"\xe9")
    path = tmp_path / "latin.sdf"
    path.write_bytes(b"$$$$\r\n".join([latin + b"> <a\xe9>\n\xe9\n\n", latin.replace(b" 1  2", b" 1 99"), latin]))
    entries = list(read_molecules(path))
    assert [e.name for e in entries] == ["m5\ufffd"] * 3
    assert [e.failure.reason if e.failure else e.smiles for e in entries] == ["CCO", "invalid_record", "CCO"]
    path.write_bytes(latin)
    assert one(Chem.MolFromMolFile(str(path))).name == "m5\ufffd"
    path.write_bytes(b"")
    assert one(path).failure.reason == "unreadable_file"


@pytest.mark.parametrize("text", ["", "# nothing\n\n", "SMILES\n"])
def test_files_without_molecules_fail(tmp_path, text):
    for suffix in ("smi", "csv", "sdf"):
        path = tmp_path / f"empty.{suffix}"
        path.write_text(text if suffix == "smi" else "" if suffix == "sdf" else "SMILES,name\n")
        assert one(path).failure.reason == "unreadable_file"
        assert "holds no molecules" in one(path).failure.message


def test_names_do_not_end_records():
    assert one("CCO $$$$").name == "$"


def test_names_are_single_lines(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('smiles,name\nO,"wa\nter"\n"C1\nx","a  b"\n')
    entries = [(e.id, e.name, e.smiles) for e in read_molecules(path)]
    assert entries == [("wa ter", "wa ter", "O"), ("a b", "a b", "C1 x")]


def test_molecules_built_without_sanitisation():
    assert one(Chem.MolFromSmiles("CCO", sanitize=False)).smiles == "CCO"
    assert one(Chem.MolFromSmiles("CN(C)(C)(C)C", sanitize=False)).failure.reason == "invalid_molecule"


class TestStereo:
    def test_marks_without_meaning_are_reported(self):
        for smiles, what in (("C1CC/C=C/C1", "double-bond"), ("C[C@H](C)O", "1 of 1 tetrahedral")):
            (entry,) = read_molecules(smiles)
            assert any(what in note for note in entry.notes)
        for smiles in ("C/C=C/C", "F[C@H](Cl)Br a/b@c", "CCO"):
            (entry,) = read_molecules(smiles)
            assert entry.notes == ()

    def test_stereoisomers_are_enumerated_on_request(self):
        isomers = list(read_molecules(["CC=C[C@H](O)F but", "CCO", "CC(F)C(F)C"], enumerate_stereo=True))
        assert [m.name for m in isomers] == ["but_isomer1", "but_isomer2", "", "", "", ""]
        assert {m.smiles for m in isomers[:2]} == {"C/C=C/[C@H](O)F", "C/C=C\\[C@H](O)F"}
        # Two equal centres: a pair of mirror images and the meso form.
        assert len({m.smiles for m in isomers[3:]}) == 3
        assert len({m.id for m in isomers}) == 6
        assert all(m.notes == () for m in isomers)

    def test_many_isomers_are_bounded(self):
        many = list(read_molecules("O" + "C(F)" * 8 + "O", enumerate_stereo=True))
        assert len(many) == MAX_ISOMERS
        assert f"only {MAX_ISOMERS} stereoisomers were tried" in many[0].notes
        exactly = list(read_molecules("O" + "C(F)" * 6 + "Cl", enumerate_stereo=True))
        assert len(exactly) == MAX_ISOMERS
        assert exactly[0].notes == ()

    def test_isomers_of_cages_that_cannot_be_are_left_out(self):
        camphor = list(read_molecules("CC1(C)C2CCC1(C)C(=O)C2", enumerate_stereo=True))
        assert len({m.smiles for m in camphor}) == len(camphor) == 2
        assert camphor[0].notes == ("2 of 4 stereoisomers have no geometry that ETKDG can find",)
        (amantadine,) = read_molecules("NC12CC3CC(CC(C3)C1)C2", enumerate_stereo=True)
        assert amantadine.failure is None

    @pytest.mark.parametrize("smiles", ["NC12CC3CC(CC(C3)C1)C2", "C12C3C4C1C5C2C3C45", "C1CN2CCN1CC2", "C1CC2CCC1C2"])
    def test_symmetric_cages_leave_nothing_open(self, smiles):
        assert one(smiles).notes == ()

    def test_centres_of_cages_are_told(self):
        assert one("CC1(C)C2CCC1(C)C(=O)C2").notes == ("unspecified stereochemistry at 2 tetrahedral centres",)
        assert one("OC1CN2CCC1CC2").notes == ("unspecified stereochemistry at 1 tetrahedral centre",)

    def test_allenes(self):
        assert one("CC=C=CC").notes == ("unspecified stereochemistry at 1 chiral allene",)
        assert one("CC=C=C(C)C").notes == one("CN=C=NC").notes == one("C=C=CC=C").notes == ()

    def test_cumulenes_of_three_double_bonds(self):
        assert one("CC=C=C=CC").notes == ("unspecified stereochemistry at 1 double bond",)
        assert one("C=C=C=CC").notes == ()

    def test_an_open_double_bond_between_labelled_ones_stays_open(self):
        mol = Chem.MolFromSmiles("CC=CC=CC=CC")
        for bond, ends in ((1, (0, 3)), (5, (4, 7))):
            mol.GetBondWithIdx(bond).SetStereoAtoms(*ends)
            mol.GetBondWithIdx(bond).SetStereo(Chem.BondStereo.STEREOTRANS)
        assert one(mol).notes == ("unspecified stereochemistry at 1 double bond",)
        isomers = {m.smiles for m in read_molecules(mol, enumerate_stereo=True)}
        assert isomers == {"C/C=C/C=C/C=C/C", "C/C=C/C=C\\C=C\\C"}

    @pytest.mark.parametrize(("label", "smiles"), [("STEREOCIS", r"C/C=C\C"), ("STEREOTRANS", "C/C=C/C")])
    def test_labels_of_double_bonds_that_a_caller_has_set(self, label, smiles):
        mol = Chem.MolFromSmiles("CC=CC")
        bond = mol.GetBondWithIdx(1)
        bond.SetStereoAtoms(0, 3)
        bond.SetStereo(getattr(Chem.BondStereo, label))
        assert one(mol).smiles == smiles
        assert one(mol).notes == ()
        assert bond.GetStereo() == getattr(Chem.BondStereo, label)  # the caller's molecule is left alone


def test_a_query_is_no_molecule():
    (entry,) = read_molecules(Chem.MolFromSmarts("[#6]-[O,N]"))
    assert entry.failure is not None
    assert entry.failure.reason == "invalid_molecule"
    assert "SMARTS" in entry.failure.message


def test_stereochemistry_that_is_not_kept_is_told():
    assert one("Cc1cccc(I)c1-c1c(C)cccc1I |wU:7.7|", elements=(1, 6, 53)).notes == (
        "the axial chirality of 1 bond is not kept",
    )
    assert one("C[C@@H](F)Cl |&1:1|", elements=(1, 6, 9, 17)).notes == (
        "relative or racemic stereochemistry is taken as absolute",
    )
    assert one("F[S@OH1](F)(F)(Cl)(Br)c1ccccc1", elements=None).notes == (
        "the stereochemistry of 1 atom with five or six neighbors is not kept",
    )
    assert one("C[C@@H](F)CO").notes == ()


def test_bytes_of_a_command_line_that_are_no_text():
    assert one("CCO \udcff").name == "?"
    assert one("\udcff").failure.reason == "invalid_smiles"


@pytest.mark.parametrize("name", ["n", "seed", "max_steps", "n_steps", "embed_timeout", "max_atoms_per_batch"])
def test_counts_must_be_integers(name):
    for value in (2.5, "3", True):
        with pytest.raises(ConfigurationError, match=f"{name} must be an integer"):
            ConformerOptions(**{name: value})
    # RDKit, for one, takes Python's integers only.
    assert type(getattr(ConformerOptions(**{name: np.int64(3)}), name)) is int


def test_entries_are_counted_without_reading_them(tmp_path):
    (tmp_path / "a.smi").write_text("CCO one\n\n# comment\nC1CC broken\n")
    (tmp_path / "b.csv").write_text("SMILES,name\nCCO,x\nCC,y\n")
    writer = Chem.SDWriter(str(tmp_path / "c.sdf"))
    for smiles in ("CCO", "CC", "C"):
        writer.write(Chem.MolFromSmiles(smiles))
    writer.close()
    files = [tmp_path / name for name in ("a.smi", "b.csv", "c.sdf")]
    assert [count_entries(f) for f in files] == [2, 2, 3]
    assert count_entries([*files, "CCO", tmp_path / "absent.smi"]) == 9
    assert count_entries(iter(["CCO"])) is None
