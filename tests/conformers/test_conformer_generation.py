"""The whole path from SMILES to a ranked ensemble, with MMFF94s in place of the trained model."""

from __future__ import annotations

import io
import itertools
import math
import sys
from dataclasses import replace

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from consistent_calc import generate_conformers
from consistent_calc.conformers import ConformerOptions, generate_many, read_molecules, stream
from consistent_calc.conformers.generate import derived_seed, embed, with_conformers
from consistent_calc.conformers.result import conformer_positions
from consistent_calc.conformers.sample import keep_lowest
from consistent_calc.errors import ConfigurationError, ConformerError, MoleculeInputError, UnknownLevelError

ALANINE, DIOL, BUTANE = "C[C@H](N)C(=O)O", "OCCO", "CCCC"


@pytest.fixture
def diol(force_field, small_noise):
    return generate_conformers(DIOL, n=5, seed=3, model=force_field(DIOL))


def test_an_ensemble_is_sorted_weighted_and_relaxed(diol):
    assert 1 <= len(diol) <= 5
    assert float(diol.relative_energies[0]) == 0.0
    assert bool((diol.energies.diff() >= 0).all())
    assert float(diol.weights.sum()) == pytest.approx(1.0)
    assert bool((diol.gaps >= 0).all())  # guidance may have reached the minimum already
    assert bool((diol.moved >= 0).all())
    assert bool(diol.converged.all())
    assert diol.level == "MMFF94s"
    assert diol.counts["embedded"] == diol.counts["denoised"] + diol.counts["alike"] == 27
    assert diol.counts["denoised"] - diol.counts["screened"] <= 9
    assert diol.mol.GetNumConformers() == len(diol)
    assert diol.mol.GetConformer(0).GetProp("level") == "MMFF94s"


def test_butane_has_three_minima_and_says_so(force_field):
    result = generate_conformers(BUTANE, n=10, model=force_field(BUTANE), denoise=False, fmax=0.003)
    # anti, and the two mirror images of gauche
    assert len(result) == 3
    assert float(result.relative_energies[1]) == pytest.approx(float(result.relative_energies[2]), abs=0.01)
    assert any("3 distinct conformers" in note for note in result.notes)
    only = generate_conformers(BUTANE, n=10, model=force_field(BUTANE), denoise=False, window=0.0)
    assert len(only) == 1


def test_the_same_seed_gives_the_same_ensemble_in_any_company(force_field, small_noise):
    model = force_field(DIOL, ALANINE, BUTANE)
    alone = generate_conformers(DIOL, n=4, seed=3, model=model)
    crowd = list(generate_many([BUTANE, ALANINE, "C1CC", DIOL], n=4, seed=3, model=model))[3].ensemble
    assert torch.allclose(alone.energies, crowd.energies, atol=1e-4)
    assert torch.allclose(alone.to_batch().positions, crowd.to_batch().positions, atol=5e-2)
    entries = [next(read_molecules(s)) for s in (DIOL, DIOL)]
    first, second = (embed(e, ConformerOptions(n=4, seed=s)).mol for e, s in zip(entries, (3, 4), strict=True))
    assert abs(first.GetConformer(0).GetPositions() - second.GetConformer(0).GetPositions()).max() > 0.01


def test_derived_seeds_are_fixed_numbers():
    seeds = {derived_seed(0, DIOL, "etkdg"), derived_seed(1, DIOL, "etkdg"), derived_seed(0, DIOL, "noise 0")}
    assert len(seeds) == 3
    assert all(0 <= s < 2**31 for s in seeds)
    assert derived_seed(0, "OCCO", "etkdg") == 919376114


def test_every_sample_has_its_own_noise(force_field, small_noise):
    list(generate_many([DIOL, BUTANE], n=4, model=force_field(DIOL, BUTANE)))
    assert len(small_noise) == len(set(small_noise)) >= 8  # butane alone has three kinds of seeds


def test_one_result_an_input_with_typed_failures(force_field, small_noise):
    sources = ["C1CC", DIOL, "CC.CC", ALANINE, "CCCO unknown_to_the_stand_in", "[CH3]", "C[SiH3]"]
    results = list(generate_many(sources, n=2, model=force_field(DIOL, ALANINE)))
    reasons = [r.failure.reason if r.failure else None for r in results]
    assert reasons == [
        "invalid_smiles",
        None,
        "multiple_fragments",
        None,
        "invalid_structure",
        "odd_electrons",
        "unsupported_element",
    ]
    assert [r.succeeded for r in results] == [r is None for r in reasons]
    assert len({r.id for r in results}) == len(results)


def test_results_stream(force_field):
    def endless():
        while True:
            yield DIOL

    stream = generate_many(endless(), n=2, model=force_field(DIOL), denoise=False, max_atoms_per_batch=50)
    assert next(stream).succeeded
    assert next(stream).id == "molecule_2"


def test_one_molecule_raises_instead(force_field):
    model = force_field(DIOL)
    with pytest.raises(MoleculeInputError, match="unclosed ring") as caught:
        generate_conformers("C1CC", model=model)
    assert caught.value.reason == "invalid_smiles"
    with pytest.raises(MoleculeInputError, match="generate_many"):
        generate_conformers([DIOL, DIOL], model=model)
    with pytest.raises(UnknownLevelError, match="MMFF94s"):
        generate_conformers(DIOL, model=model, level="HF")
    with pytest.raises(ValueError, match="n must be positive"):
        generate_conformers(DIOL, n=0, model=model)


def test_impossible_stereo_has_a_reason(model):
    with pytest.raises(ConformerError, match=r"ETKDG found no geometry.*No sample from noise") as caught:
        generate_conformers("[C@@]12(F)C[C@@]1(F)C2", n=1, model=model)
    assert caught.value.reason == "embedding_failed"


def test_seeds_are_the_same_however_many_there_are():
    entry = next(read_molecules(DIOL))
    few, many = (embed(entry, ConformerOptions(n=n)).mol for n in (4, 12))
    for k in range(few.GetNumConformers()):
        assert (few.GetConformer(k).GetPositions() == many.GetConformer(k).GetPositions()).all()


def test_the_forces_guide_the_end_of_the_sampling(force_field, small_noise):
    free, guided = (generate_conformers(DIOL, n=4, model=force_field(DIOL), guidance=k) for k in (0, 6))
    assert float(guided.gaps.median()) < 0.25 * float(free.gaps.median())
    assert float(guided.energies[0]) == pytest.approx(float(free.energies[0]), abs=1e-3)


def test_the_lowest_and_different_seeds_go_on():
    entry = next(read_molecules(BUTANE))
    samples = embed(entry, ConformerOptions(n=4, seed=1))
    assert samples.mol.GetNumConformers() == 3  # anti and two gauche, of 24
    assert samples.counts["alike"] == 21
    positions = conformer_positions(samples.mol)
    twice = with_conformers(samples.mol, [*positions[:3], positions[0] + 1.0])  # moved as a whole: the same structure
    samples.mol = twice
    keep_lowest(samples, [0.1, 0.3, math.nan, 0.1], 2)
    assert samples.counts["screened"] == 2
    kept = conformer_positions(samples.mol)
    assert [bool((x == positions[k]).all()) for x, k in zip(kept, (0, 1), strict=True)] == [True, True]
    keep_lowest(samples, [1.0, 0.0], 2)
    assert bool((conformer_positions(samples.mol)[0] == positions[1]).all())  # sorted by energy


def test_unguided_seeds_are_not_screened(force_field, small_noise):
    for options in ({"guidance": 0}, {"denoise": False}):
        result = generate_conformers(DIOL, n=4, model=force_field(DIOL), **options)
        assert result.counts["embedded"] == 8
        assert "screened" not in result.counts


def test_guidance_that_breaks_the_molecule_is_not_taken(force_field, small_noise, monkeypatch):
    from consistent_calc.conformers import sample

    real = sample.relax_samples

    def reflecting(*arguments):
        results = real(*arguments)
        return [replace(r, batch=r.batch.with_positions(-r.batch.positions)) for r in results]

    monkeypatch.setattr(sample, "relax_samples", reflecting)
    result = generate_conformers(ALANINE, n=2, model=force_field(ALANINE))
    assert "stereo_changed" not in result.counts
    assert Chem.MolToSmiles(Chem.RemoveHs(result.mol)) == Chem.CanonSmiles(ALANINE)


def test_a_molecule_gets_no_more_than_its_time(force_field, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("consistent_calc.conformers.generate.time.monotonic", lambda: next(clock))
    result = generate_conformers(DIOL, n=20, model=force_field(DIOL), denoise=False, max_time=4)
    assert 0 < result.counts["embedded"] < result.counts["requested"]
    assert any("seeds within max_time" in note for note in result.notes)
    assert not bool(result.converged.all())
    with pytest.raises(ConformerError) as caught:
        generate_conformers(DIOL, n=20, model=force_field(DIOL), denoise=False, max_time=1e-9)
    assert caught.value.reason == "time_over"
    with pytest.raises(ConfigurationError, match="max_time"):
        ConformerOptions(max_time=0)


def test_a_sample_that_denoising_reflects_falls_back_to_its_seed(force_field, monkeypatch):
    def reflect(model, batch, *, sigma_start, n_steps, seeds):
        return -batch.positions

    monkeypatch.setattr("consistent_calc.diffusion.samplers.refine", reflect)
    result = generate_conformers(ALANINE, n=3, model=force_field(ALANINE))
    assert result.counts["denoising_stereo_changed"] == result.counts["embedded"] - result.counts["alike"]
    assert any("fell back" in note for note in result.notes)
    assert Chem.MolToSmiles(Chem.RemoveHs(result.mol)) == Chem.CanonSmiles(ALANINE)


def test_samples_that_relaxation_changes_are_dropped_and_counted(force_field, monkeypatch):
    from consistent_calc.conformers import generate

    real = generate.relax

    def reflecting(model, batch, **options):
        result = real(model, batch, **options)
        sign = torch.ones(batch.n_graphs, dtype=torch.float64)
        sign[: reflecting.n] = -1
        moved = result.batch.positions * sign[batch.graph, None]
        return replace(result, batch=result.batch.with_positions(moved))

    monkeypatch.setattr(generate, "relax", reflecting)
    reflecting.n = 2
    result = generate_conformers(ALANINE, n=3, model=force_field(ALANINE), denoise=False)
    assert result.counts["stereo_changed"] == 2
    assert any("2 samples were dropped" in note for note in result.notes)
    reflecting.n = 100
    with pytest.raises(ConformerError) as caught:
        generate_conformers(ALANINE, n=3, model=force_field(ALANINE), denoise=False)
    assert caught.value.reason == "stereo_changed"


def test_unconverged_conformers_are_marked(force_field):
    result = generate_conformers(DIOL, n=2, model=force_field(DIOL), denoise=False, max_steps=1)
    assert not bool(result.converged.any())
    assert any("did not reach fmax" in note for note in result.notes)


@pytest.mark.parametrize("step", ["start", "draw_samples", "choose"])
def test_an_unforeseen_error_costs_its_molecule_only(force_field, monkeypatch, step):
    module = sys.modules[stream.__module__]  # the package has a function of its name
    real = getattr(module, step)

    def fails(*arguments):
        for x in itertools.chain(*(x if isinstance(x, list) else [x] for x in arguments)):
            if getattr(getattr(x, "input", x), "smiles", None) == DIOL:
                raise RuntimeError("deep in a library")
        return real(*arguments)

    monkeypatch.setattr(module, step, fails)
    results = list(generate_many([BUTANE, DIOL, BUTANE], n=2, model=force_field(DIOL, BUTANE), denoise=False))
    assert [r.failure.reason if r.failure else None for r in results] == [None, "unexpected_error", None]
    assert results[1].failure.message == "Unexpected RuntimeError: deep in a library"


def test_a_full_memory_makes_batches_smaller(force_field, monkeypatch):
    model, limit, sizes = force_field(DIOL, BUTANE), 200, []
    real = model.predict

    def predict(batch, **options):
        if batch.n_atoms > limit:
            raise torch.OutOfMemoryError("no memory")
        sizes.append(batch.n_atoms)
        return real(batch, **options)

    monkeypatch.setattr(model, "predict", predict)
    options = {"n": 20, "model": model, "denoise": False, "max_atoms_per_batch": 1000}
    assert all(r.succeeded for r in generate_many([DIOL, BUTANE], **options))
    assert max(sizes) > 64
    limit = 1
    failed = list(generate_many([DIOL, BUTANE], **options))
    assert [r.failure.reason for r in failed] == ["out_of_memory"] * 2


def test_every_conformer_tells_its_stereoisomer(force_field):
    smiles = "CC(O)C(=O)O"
    result = generate_conformers(smiles, n=8, model=force_field(smiles), denoise=False)
    assert set(result.isomers) == {"C[C@H](O)C(=O)O", "C[C@@H](O)C(=O)O"}
    assert any("2 stereoisomers" in note for note in result.notes)
    assert result.properties(0)["smiles_3d"] == result.isomers[0]
    specified = generate_conformers(ALANINE, n=3, model=force_field(ALANINE), denoise=False)
    assert set(specified.isomers) == {Chem.CanonSmiles(ALANINE)}


def test_sdf_round_trip(diol, tmp_path):
    path = tmp_path / "out.sdf"
    diol.write_sdf(path)
    records = list(Chem.SDMolSupplier(str(path), removeHs=False))
    assert len(records) == len(diol)
    for k, record in enumerate(records):
        assert float(record.GetProp("energy_eV")) == pytest.approx(float(diol.energies[k]), abs=1e-6)
        assert float(record.GetProp("boltzmann_weight")) == pytest.approx(float(diol.weights[k]), abs=1e-6)
        assert record.GetProp("n") == str(len(diol))
        assert record.GetProp("converged") == "true"
        assert abs(record.GetConformer().GetPositions() - diol.mol.GetConformer(k).GetPositions()).max() < 1e-4
    file = io.StringIO()
    diol.write_sdf(file)
    diol.write_sdf(file)
    assert file.getvalue().count("$$$$") == 2 * len(diol)


def test_other_packages(diol):
    images = diol.to_ase()
    assert len(images) == len(diol)
    assert images[0].info["charge"] == 0
    assert images[0].info["energy_eV"] == float(diol.energies[0])
    assert diol.to_rdkit().GetNumConformers() == len(diol)
    pytest.importorskip("pymatgen.core")
    assert len(diol.to_pymatgen()) == len(diol)


def test_seeds_settle_with_the_force_field_unless_it_knows_them_not():
    settled = embed(next(read_molecules(BUTANE)), ConformerOptions(n=4, seed=1)).mol
    raw = embed(next(read_molecules(BUTANE)), ConformerOptions(n=4, seed=1, denoise=False)).mol
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(settled, mmffVariant="MMFF94s")

    def largest_force(mol):
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=0)
        return max(map(abs, field.CalcGrad()))

    assert largest_force(settled) < 0.1 < 10 < largest_force(raw)  # kcal/mol/Angstrom
    boronic = embed(next(read_molecules("CB(O)O")), ConformerOptions(n=4, seed=1))  # no parameters for boron
    assert boronic.mol.GetNumConformers() > 0
