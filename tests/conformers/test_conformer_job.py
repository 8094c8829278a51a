"""Jobs over many molecules: everything leaves one trace on the disk, whatever happens on the way."""

from __future__ import annotations

import csv
from dataclasses import replace

import job_workers
import pytest
from rdkit import Chem

from consistent_calc.checkpoint import shipped
from consistent_calc.conformers import ConformerOptions, job, run_conformer_job
from consistent_calc.errors import ConfigurationError, DataError, UnknownLevelError

SMILES = ["OCCO diol", "C1CC broken", "C[C@H](N)C(=O)O alanine", "CCO", "OCCCO propanediol", "CC=O"]
OPTIONS = ConformerOptions(n=2, denoise=False)


@pytest.fixture
def model(force_field, monkeypatch):
    """The stand-in in the place of the shipped model."""
    stand_in = force_field("OCCO", "CC(N)C(=O)O", "CCO", "OCCCO", "CC=O")
    monkeypatch.setattr(job, "load", lambda checkpoint, device: stand_in)
    return stand_in


def traces(output):
    """Ids in the SDF (one entry a conformer) and in the table of failures."""
    failures = output.with_name(output.name + ".failures.csv")
    rows = list(csv.DictReader(failures.open())) if failures.exists() else []
    mols = list(Chem.SDMolSupplier(str(output), removeHs=False)) if output.stat().st_size else []
    return [m.GetProp("id") for m in mols], {r["id"]: r["reason"] for r in rows}


def test_every_molecule_leaves_one_trace(model, tmp_path):
    output, seen = tmp_path / "out.sdf", []
    report = run_conformer_job(SMILES, output, OPTIONS, on_result=seen.append)
    ids, failures = traces(output)
    assert (report.written, report.failed, report.skipped) == (5, {"invalid_smiles": 1}, 0)
    assert failures == {"molecule_2": "invalid_smiles"}
    assert set(ids) == {"diol", "alanine", "molecule_4", "propanediol", "molecule_6"}
    assert [r.id for r in seen] == ["diol", "molecule_2", "alanine", "molecule_4", "propanediol", "molecule_6"]


def test_names_with_line_breaks_leave_readable_records(model, tmp_path):
    mol = Chem.MolFromSmiles("CCO")
    mol.SetProp("_Name", "etha\n\nnol")
    table, output = tmp_path / "in.csv", tmp_path / "out.sdf"
    table.write_text('smiles,name\nOCCO,"di\nol"\nC1CC,"bro\r\nken"\n')
    run_conformer_job([mol, table], output, OPTIONS)
    ids, failures = traces(output)
    assert (set(ids), failures) == ({"etha nol", "di ol"}, {"bro ken": "invalid_smiles"})
    assert run_conformer_job([mol, table], output, OPTIONS, resume=True).skipped == 3


def test_without_failures_there_is_no_table(model, tmp_path):
    run_conformer_job("CCO", tmp_path / "out.sdf", OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["out.sdf"]


def test_an_interrupted_job_keeps_what_it_has_and_goes_on(model, tmp_path):
    output = tmp_path / "out.sdf"

    def interrupt(result):
        if result.id == "molecule_4":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_conformer_job(SMILES, output, OPTIONS, on_result=interrupt)
    assert set(traces(output)[0]) == {"diol", "alanine", "molecule_4"}
    report = run_conformer_job(SMILES, output, OPTIONS, resume=True)
    assert (report.skipped, report.written, report.n_failed) == (4, 2, 0)
    run_conformer_job(SMILES, tmp_path / "whole.sdf", OPTIONS)
    assert output.read_text() == (tmp_path / "whole.sdf").read_text()
    assert traces(output)[1] == {"molecule_2": "invalid_smiles"}


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.55, 0.8, 0.999])
def test_a_file_cut_anywhere_is_continued(model, tmp_path, fraction):
    whole, output = tmp_path / "whole.sdf", tmp_path / "out.sdf"
    run_conformer_job(SMILES, whole, OPTIONS)
    content = whole.read_bytes()
    output.write_bytes(content[: int(fraction * len(content))])
    run_conformer_job(SMILES, output, OPTIONS, resume=True)
    assert output.read_bytes() == content


@pytest.mark.parametrize("others", [["CCO", "CC=O"], ["C1CC", "OCCO"]])
def test_an_output_of_other_molecules_is_not_continued(model, tmp_path, others):
    output = tmp_path / "out.sdf"
    run_conformer_job(["OCCO", "C1CCC"], output, OPTIONS)
    before = output.read_text(), traces(output)
    with pytest.raises(ConfigurationError, match=r"out\.sdf belongs to another job: its 'molecule_1' is 'OCCO'"):
        run_conformer_job(others, output, OPTIONS, resume=True)
    with pytest.raises(ConfigurationError, match="its 'molecule_2' is 'C1CCC', not 'CCO'"):
        run_conformer_job(["OCCO", "CCO"], output, OPTIONS, resume=True)
    assert (output.read_text(), traces(output)) == before


def test_isomers_molecules_and_failures_are_recognised(model, tmp_path):
    sources = ["CC(N)C(=O)O", Chem.MolFromSmiles("CCO"), "C1CC\nx", "C[Si]", None]
    options = replace(OPTIONS, enumerate_stereo=True)
    first = run_conformer_job(sources, tmp_path / "out.sdf", options)
    assert (first.written, first.n_failed) == (3, 3)
    again = run_conformer_job(sources, tmp_path / "out.sdf", options, resume=True)
    assert (again.skipped, again.written, again.n_failed) == (6, 0, 0)


def test_an_interrupted_job_goes_on_with_its_settings_only(model, tmp_path):
    output = tmp_path / "out.sdf"

    def interrupt(result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_conformer_job(SMILES, output, OPTIONS, on_result=interrupt)
    before = output.read_text()
    with pytest.raises(ConfigurationError, match=r"other settings \(n was 2, seed was 0\)"):
        run_conformer_job(SMILES, output, replace(OPTIONS, n=3, seed=1), resume=True)
    assert output.read_text() == before
    smaller = replace(OPTIONS, level="MMFF94s", max_atoms_per_batch=64)  # which change no result
    assert run_conformer_job(SMILES, output, smaller, resume=True).skipped == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.sdf", "out.sdf.failures.csv"]


def test_a_finished_job_is_not_extended_at_another_level(model, tmp_path):
    output = tmp_path / "out.sdf"
    run_conformer_job("CCO", output, OPTIONS)
    output.write_text(before := output.read_text().replace("MMFF94s", "HF"))
    with pytest.raises(ConfigurationError, match="holds conformers at HF, not at MMFF94s"):
        run_conformer_job(["CCO", "CC=O"], output, OPTIONS, resume=True)
    assert output.read_text() == before


def test_an_extension_that_is_interrupted_keeps_its_settings(model, tmp_path):
    output = tmp_path / "out.sdf"
    run_conformer_job("CCO", output, OPTIONS)

    def interrupt(result):
        raise KeyboardInterrupt

    more = ["CCO", "CC=O", "OCCO"]
    with pytest.raises(KeyboardInterrupt):
        run_conformer_job(more, output, replace(OPTIONS, n=3), resume=True, on_result=interrupt)
    with pytest.raises(ConfigurationError, match=r"other settings \(n was 3\)"):
        run_conformer_job(more, output, OPTIONS, resume=True)


@pytest.mark.parametrize("end", ["", ".failures.csv", ".job.json"])
@pytest.mark.parametrize("several", [False, True])
def test_inputs_are_not_overwritten(model, tmp_path, end, several):
    """The table of failures is a list of SMILES, which one may want to try again."""
    source = tmp_path / f"mine.sdf{end}"
    source.write_text(content := "smiles\nCCO\n")
    if end == ".job.json":
        source = (tmp_path / "linked.csv").resolve()
        source.symlink_to(tmp_path / f"mine.sdf{end}")
    with pytest.raises(ConfigurationError, match="is an input and would be overwritten"):
        run_conformer_job(["CCO", source] if several else source, tmp_path / "mine.sdf", OPTIONS)
    assert source.read_text() == content


def test_a_job_without_results_may_go_on_with_other_settings(model, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(job, "stream", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_conformer_job("CCO", tmp_path / "out.sdf", OPTIONS)
    assert run_conformer_job("CCO", tmp_path / "out.sdf", replace(OPTIONS, n=3), resume=True).written == 1


def test_the_record_of_a_removed_output_hinders_nothing(model, tmp_path):
    output = tmp_path / "out.sdf"
    (tmp_path / "out.sdf.job.json").write_text("{}")
    assert run_conformer_job("CCO", output, OPTIONS, resume=True).written == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.sdf"]


@pytest.mark.parametrize("left", [None, "", "id,na"])
def test_a_resumed_table_has_a_header(model, tmp_path, left):
    output, failures = tmp_path / "out.sdf", tmp_path / "out.sdf.failures.csv"
    run_conformer_job("OCCO", output, OPTIONS)
    if left is not None:
        failures.write_text(left)
    run_conformer_job(["OCCO", "C1CC"], output, OPTIONS, resume=True)
    assert traces(output)[1] == {"molecule_2": "invalid_smiles"}


def test_a_foreign_file_is_not_continued(model, tmp_path):
    output = tmp_path / "out.sdf"
    Chem.SDWriter(str(output)).write(Chem.MolFromSmiles("CCO"))
    before = output.read_text()
    with pytest.raises(DataError, match="not written by such a job"):
        run_conformer_job(SMILES, output, OPTIONS, resume=True)
    assert output.read_text() == before


def test_impossible_options(model, tmp_path):
    with pytest.raises(ConfigurationError, match="workers"):
        run_conformer_job("CCO", tmp_path / "out.sdf", OPTIONS, workers=0)


def test_an_unknown_level_is_an_error_of_the_job(tmp_path):
    with pytest.raises(UnknownLevelError):
        run_conformer_job("CCO", tmp_path / "out.sdf", ConformerOptions(level="HF"))
    assert list(tmp_path.iterdir()) == []


def test_dead_workers_cost_only_the_molecule_that_kills_them(model, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(job, "_work", job_workers.work)
    smiles = ["OCCO", "CCO", "N", "CC=O", "OCCCO", "C1CC", "CCO", "OCCO"]
    seen = []
    report = run_conformer_job(
        smiles, tmp_path / "out.sdf", ConformerOptions(seed=5), checkpoint="base", workers=2, on_result=seen.append
    )
    assert report.failed == {"polite": 7, "worker_failed": 1}
    assert len(traces(tmp_path / "out.sdf")[1]) == len(smiles)
    # The name of a checkpoint became the file that the workers can read.
    messages = {result.failure.message for result in seen if result.failure.reason == "polite"}
    assert messages == {f"seed 5 of {shipped('base.json')}"}
