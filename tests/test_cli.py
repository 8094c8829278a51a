"""The command line, run as a user runs it, with an untrained checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from typer.testing import CliRunner, Result

from consistent_calc import __version__
from consistent_calc.calculator import ConsistentCalculator
from consistent_calc.checkpoint import save_model
from consistent_calc.cli import app
from consistent_calc.errors import OddElectronWarning
from consistent_calc.model import ConsistentModel


@pytest.fixture(scope="module")
def checkpoint(model: ConsistentModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(model, tmp_path_factory.mktemp("checkpoint") / "untrained"))


@pytest.fixture
def file(tmp_path: Path, water: Atoms) -> Path:
    path = tmp_path / "two.xyz"
    write(path, [water, Atoms("He")])
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def test_version_and_help() -> None:
    assert run("--version").stdout.strip() == __version__
    for command in ("energy", "relax", "conformers", "check", "train", "evaluate", "import"):
        assert run(command, "--help").exit_code == 0


def test_energy_reports_every_structure_and_goes_on_after_a_bad_one(
    checkpoint: str, file: Path, tmp_path: Path
) -> None:
    result = run("energy", file, "--checkpoint", checkpoint, "-o", tmp_path / "out.xyz")
    assert result.exit_code == 1  # helium is unknown
    assert "unsupported_element" in result.stdout
    first = read(tmp_path / "out.xyz", index=0)
    assert np.isfinite(first.get_potential_energy())
    assert first.get_forces().shape == (3, 3)


def test_energies_of_crystals_come_with_their_stress(checkpoint: str, crystal: Atoms, tmp_path: Path) -> None:
    write(tmp_path / "crystal.xyz", crystal)
    assert (
        run("energy", tmp_path / "crystal.xyz", "--checkpoint", checkpoint, "-o", tmp_path / "out.xyz").exit_code == 0
    )
    crystal.calc = ConsistentCalculator(checkpoint)
    np.testing.assert_allclose(read(tmp_path / "out.xyz").get_stress(), crystal.get_stress(), atol=1e-6)


def test_a_slab_without_a_third_vector_has_no_stress(checkpoint: str, tmp_path: Path) -> None:
    slab = Atoms("C2", [[0, 0, 0], [1.2, 0.7, 0]], cell=np.diag([2.4, 2.4, 0]), pbc=(True, True, False))
    write(tmp_path / "slab.xyz", slab)
    assert run("energy", tmp_path / "slab.xyz", "-o", tmp_path / "out.xyz", "--checkpoint", checkpoint).exit_code == 0
    assert "stress" not in read(tmp_path / "out.xyz").calc.results


def test_all_molecules_of_an_sdf_are_read_with_their_charges(checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "two.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for smiles in ("[OH-]", "O"):
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            rdDistGeom.EmbedMolecule(mol, randomSeed=0)
            writer.write(mol)
    result = run("energy", path, "-o", tmp_path / "out.xyz", "--checkpoint", checkpoint)
    assert result.exit_code == 0, result.output
    assert [(str(a.symbols), a.info["charge"]) for a in read(tmp_path / "out.xyz", ":")] == [("OH", -1), ("OH2", 0)]
    (tmp_path / "bad.sdf").write_text("no molecule\n$$$$\n")
    assert "RDKit cannot read" in run("energy", tmp_path / "bad.sdf", "--checkpoint", checkpoint).output


def test_a_structure_that_cannot_be_read_stops_no_other(checkpoint: str, water: Atoms, tmp_path: Path) -> None:
    path = tmp_path / "three.sdf"
    mol = Chem.AddHs(Chem.MolFromSmiles("O"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=0)
    bad = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")).replace("  1  2  1", "  1 99  1")
    flat = Chem.MolToMolBlock(Chem.MolFromSmiles("O"))
    path.write_text("$$$$\n".join(["\n\n\n\n", bad, Chem.MolToMolBlock(mol), flat]) + "$$$$\n")
    strange = tmp_path / "strange.xyz"
    write(strange, [Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], info={"charge": "unknown"}), water])
    for command in (("energy",), ("relax", "--steps", 1)):
        for source, reason, n in ((path, "RDKit cannot read", 3), (strange, "must be a number", 1)):
            result = run(*command, source, "-o", tmp_path / "out.xyz", "--checkpoint", checkpoint)
            assert reason in result.output
            assert f"{n} of {n + 1} failed" in result.output
            (only,) = read(tmp_path / "out.xyz", ":")
            assert str(only.symbols) == "OH2"
            assert np.isfinite(only.get_potential_energy())
            (tmp_path / "out.xyz").unlink()


def test_a_trajectory_that_was_cut_off_is_read_as_far_as_it_goes(checkpoint: str, water: Atoms, tmp_path: Path) -> None:
    path = tmp_path / "run.xyz"
    write(path, [water, water, water])
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    result = run("energy", path, "-o", tmp_path / "out.traj", "--checkpoint", checkpoint)
    assert "ASE cannot read this frame" in result.output
    assert "1 of 3 failed" in result.output
    assert len(read(tmp_path / "out.traj", ":")) == 2


def test_plain_xyz_files_are_read_as_ase_reads_them(checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "plain.xyz"
    cell = "VEC1 10 0 0\nVEC2 0 10 0\nVEC3 0 0 10\n"
    path.write_text("2\na \x0c b\nH 0 0 0\nH 0 0 0.74\n" + cell + "2\n\nH 0 0 0\nH 0 0 0.75\n")
    assert run("energy", path, "-o", tmp_path / "out.traj", "--checkpoint", checkpoint).exit_code == 0
    crystal, molecule = read(tmp_path / "out.traj", ":")
    assert crystal.cell.lengths().tolist() == [10, 10, 10]
    assert crystal.pbc.all()
    assert not molecule.pbc.any()


def test_energies_are_not_lost_to_a_format(checkpoint: str, water: Atoms, tmp_path: Path) -> None:
    write(tmp_path / "water.xyz", water)
    refused = run("energy", tmp_path / "water.xyz", "-o", tmp_path / "out.cif", "--checkpoint", checkpoint)
    assert "does not write energies and forces" in refused.output


def test_charges_of_ions_are_not_lost_to_a_format(checkpoint: str, water: Atoms, tmp_path: Path) -> None:
    hydroxide = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"charge": -1})
    write(tmp_path / "both.xyz", [water, hydroxide])
    for command in (("energy",), ("relax", "--steps", 1)):
        options = "--checkpoint", checkpoint, "-o"
        refused = run(*command, tmp_path / "both.xyz", *options, tmp_path / "out.json")
        assert "does not write the charges of ions" in refused.output.replace("\n", " ")
        assert not (tmp_path / "out.json").exists()
        assert run(*command, tmp_path / "both.xyz", *options, tmp_path / "out.traj").exit_code == 0
        assert [a.info.get("charge", 0) for a in read(tmp_path / "out.traj", ":")] == [0, -1]
        # Most formats know initial charges.
        marked = Atoms("OH", hydroxide.positions, charges=[-1.0, 0.0])
        write(tmp_path / "marked.json", marked)
        lost = run("relax", tmp_path / "marked.json", *options, tmp_path / "out.pdb", "--steps", 1)
        assert "does not write the charges of ions" in lost.output
        assert run(*command, tmp_path / "marked.json", *options, tmp_path / "out.json").exit_code == 0
        assert read(tmp_path / "out.json").get_initial_charges().sum() == -1
        (tmp_path / "out.json").unlink()


def test_relaxed_structures_are_not_lost_to_a_format(checkpoint: str, water: Atoms, tmp_path: Path) -> None:
    both = tmp_path / "both.xyz"
    write(both, [water, water])
    refused = run("relax", both, "-o", tmp_path / "out.sdf", "--checkpoint", checkpoint, "--steps", 1)
    assert "neither bonds nor charges" in refused.output
    refused = run("relax", both, "-o", tmp_path / "out.vasp", "--checkpoint", checkpoint, "--steps", 1)
    assert "can hold one structure, not 2" in refused.output.replace("\n", " ")
    write(tmp_path / "one.xyz", water)
    saved = run("relax", tmp_path / "one.xyz", "-o", tmp_path / "one.vasp", "--checkpoint", checkpoint, "--steps", 1)
    assert saved.exit_code == 1
    assert "ASE cannot write" in saved.output
    assert len(read(tmp_path / "one.vasp.xyz")) == 3


def test_relax_writes_what_could_be_relaxed(checkpoint: str, file: Path, tmp_path: Path) -> None:
    result = run("relax", file, "--checkpoint", checkpoint, "-o", tmp_path / "out.xyz", "--steps", 3)
    assert result.exit_code == 1
    assert "unsupported_element" in result.stdout
    assert len(read(tmp_path / "out.xyz", index=":")) == 1


def test_a_conformer_job_is_resumed(checkpoint: str, tmp_path: Path) -> None:
    target = tmp_path / "out.sdf"
    common = ("-n", 1, "-o", target, "--checkpoint", checkpoint, "--fmax", 1e3, "--enumerate-stereo")
    page = tmp_path / "out.html"
    assert run("conformers", "C", "C1CC", *common, "--report", page).exit_code == 1
    before = target.read_text()
    result = run("conformers", "C", "C1CC", "O", *common, "--resume", "--report", page)
    assert result.exit_code == 0, result.output
    assert "1 of 1 molecules written" in result.output
    assert "2 were there already" in result.output
    assert target.read_text().startswith(before)
    assert "invalid_smiles" in (tmp_path / "out.sdf.failures.csv").read_text()
    assert "2 conformers of 2 molecules" in page.read_text()
    assert page.read_text().count("invalid_smiles") == 1


def test_a_job_that_cannot_begin_leaves_the_earlier_page(checkpoint: str, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    page.write_text("of an earlier job")
    common = ("-o", tmp_path / "out.sdf", "--checkpoint", checkpoint, "--report", page)
    assert "unknown_level" in run("conformers", "C", *common, "--level", "nonsense").output
    assert page.read_text() == "of an earlier job"


def test_relaxing_warns_of_an_odd_number_of_electrons(checkpoint: str, water: Atoms, tmp_path: Path) -> None:
    write(tmp_path / "radical.xyz", water[:2])
    with pytest.warns(OddElectronWarning):
        run("relax", tmp_path / "radical.xyz", "-o", tmp_path / "out.xyz", "--checkpoint", checkpoint, "--steps", 1)


def test_conformers_of_several_inputs_with_a_broken_one(checkpoint: str, tmp_path: Path) -> None:
    target = tmp_path / "out.sdf"
    # An untrained model relaxes nothing well; 1 eV/Angstrom steps keep the molecule intact for the writer's sake.
    result = run("conformers", "C", "C1CC", "O", "-n", 2, "-o", target, "--checkpoint", checkpoint, "--fmax", 1e3)
    assert result.exit_code == 1
    assert "invalid_smiles" in result.stderr
    mols = list(Chem.SDMolSupplier(str(target), removeHs=False))
    assert {m.GetNumHeavyAtoms() for m in mols} == {1}
    assert all(m.HasProp("energy_eV") and m.HasProp("boltzmann_weight") for m in mols)


def test_brackets_of_a_smiles_are_no_markup(checkpoint: str, tmp_path: Path) -> None:
    result = run("conformers", "[Si]C[nonsense", "-o", tmp_path / "out.sdf", "--checkpoint", checkpoint)
    assert result.exit_code == 1
    assert "[Si]C[nonsense" in "".join(result.stderr.split())


def test_an_input_file_is_never_overwritten(checkpoint: str, tmp_path: Path) -> None:
    source = tmp_path / "mols.sdf"
    source.write_text("")
    result = run("conformers", source, "-o", source, "--checkpoint", checkpoint)
    assert result.exit_code == 1
    assert "overwritten" in result.stderr


def test_relax_refuses_what_it_cannot_honour(checkpoint: str, water: Atoms, tmp_path: Path) -> None:
    water.set_constraint(FixAtoms([0]))
    write(tmp_path / "fixed.traj", water)
    result = run("relax", tmp_path / "fixed.traj", "-o", tmp_path / "out.xyz", "--checkpoint", checkpoint)
    assert result.exit_code == 1
    assert "constraints" in result.output
    result = run("relax", tmp_path / "fixed.traj", "-o", tmp_path / "out.unknown", "--checkpoint", checkpoint)
    assert "ASE writes no format" in " ".join(result.stderr.split())


def test_check_prints_figures(checkpoint: str, water: Atoms, tmp_path: Path) -> None:
    write(tmp_path / "water.xyz", water)
    result = run("check", tmp_path / "water.xyz", "--checkpoint", checkpoint)
    assert result.exit_code == 0, result.stdout
    assert "pass" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("energy", "missing.xyz"), "cannot be read"),
        (("check", "not a molecule"), "neither a file nor a usable SMILES"),
        (("check", "CCO", "--charge", "1"), "charge of a SMILES is in the SMILES"),
        (("train", "missing.toml"), "no configuration file"),
        (("evaluate", "missing.h5"), "missing.h5"),
        (("import", "rdb7"), "Give the files"),
        (("import", "extxyz", "a.xyz"), "--level"),
    ],
)
def test_mistakes_give_one_line(checkpoint: str, arguments: tuple[str, ...], message: str) -> None:
    extra = () if arguments[0] in ("train", "import") else ("--checkpoint", checkpoint)
    result = run(*arguments, *extra)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


class TestFineTuning:
    @pytest.fixture
    def frames(self, model: ConsistentModel, water: Atoms, tmp_path: Path) -> Path:
        """Eight frames of water, and one that is damaged."""
        images = []
        for k in range(8):
            atoms = water.copy()
            atoms.rattle(0.05, seed=k)
            atoms.calc = SinglePointCalculator(atoms, energy=-2000.0 + 0.1 * k, forces=np.full((3, 3), 0.1 * k))
            images.append(atoms)
        path = tmp_path / "mine.xyz"
        write(path, images)
        path.write_text(path.read_text() + "2\nbroken\nH 0 0 0\nH 0 0 0\n")
        return path

    def test_one_command_makes_a_checkpoint_with_a_new_level(
        self, checkpoint: str, frames: Path, water: Atoms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("consistent_calc.finetuning.replay_molecules", lambda elements: [])
        result = run(
            "train", "--from-checkpoint", checkpoint, "--data", frames, "--level", "PBE0/def2-SVP",
            "--out", tmp_path / "tuned", "--steps", 2, "--members", 2,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        for text in (
            "skipped frame 8",
            "force_mae_eV_A",
            "2 frames set aside",
            "rank correlation",
            "Too few molecules",
        ):
            assert text in result.output
        water.calc = ConsistentCalculator([tmp_path / "tuned", tmp_path / "tuned_2"], level="PBE0/def2-SVP")
        # Two steps of an untrained model: right but for its own noise, with the references of the frames.
        assert water.get_potential_energy() == pytest.approx(-2000, abs=20)
        assert water.calc.results["energy_std"] > 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "Give either"),
            (("run.toml", "--from-checkpoint", "base"), "Give either"),
            (("run.toml", "--data", "a.xyz"), "belong to --from-checkpoint: --data."),
            (("run.toml", "--steps", "300", "--seed", "1"), "belong to --from-checkpoint: --steps, --seed."),
            (("run.toml", "--out", "x", "--charge", "1", "--level", "X"), "--level, -o/--output/--out, --charge."),
            (("run.toml", "--members", "2", "--no-replay"), "--members, --replay/--no-replay."),
            (("run.toml", "--device", "cuda"), "belong to --from-checkpoint: --device."),
            (("--from-checkpoint", "base", "--data", "a.xyz"), "needs --data FRAMES.xyz and --level"),
            (("--from-checkpoint", "base", "--data", "absent.xyz", "--level", "X"), "absent.xyz cannot be read"),
            (("--from-checkpoint", "absent", "--data", "absent.xyz", "--level", "X"), "absent.json cannot be read"),
        ],
    )
    def test_mistakes_give_one_line(self, arguments: tuple[str, ...], message: str) -> None:
        result = run("train", *arguments)
        assert result.exit_code == 1
        assert message in " ".join(result.stderr.split())
