"""Structures from pure noise: no ETKDG, checked like all others."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule

from consistent_calc.conformers import ConformerOptions, generate_conformers, generate_many
from consistent_calc.conformers.sample import NOISE_STEPS, ROUNDS
from consistent_calc.conformers.stream import stream
from consistent_calc.errors import ConfigurationError, ConformerError

ALANINE = "C[C@H](N)C(=O)O"


@pytest.fixture
def sampler(monkeypatch):
    """Replaces the sampler: it gives the molecule, or its mirror image for seeds that ``broken`` names."""
    mol = Chem.AddHs(Chem.MolFromSmiles(ALANINE))
    EmbedMolecule(mol, randomSeed=1)
    x = torch.from_numpy(mol.GetConformer().GetPositions())

    class Sampler:
        def __init__(self):
            self.calls = []
            self.broken = lambda call, k: False

        def __call__(self, model, batch, *, n_steps, seeds):
            parts = [-x if self.broken(len(self.calls), k) else x for k in range(batch.n_graphs)]
            self.calls.append((n_steps, list(seeds)))
            return torch.cat(parts)

    stub = Sampler()
    monkeypatch.setattr("consistent_calc.diffusion.samplers.from_noise", stub)
    monkeypatch.setattr("consistent_calc.conformers.generate.rdDistGeom", None)  # ETKDG must not be asked
    return stub


def test_the_named_modes(force_field, sampler):
    for method, n_steps in (("noise", NOISE_STEPS), ("denoising", 1)):
        ensemble = generate_conformers(ALANINE, n=2, method=method, model=force_field(ALANINE))
        assert sampler.calls[-1][0] == n_steps
        assert ensemble.counts["sampled"] == ensemble.counts["requested"] == 6
        assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(ensemble.mol))) == Chem.CanonSmiles(ALANINE)
    with pytest.raises(ConfigurationError, match="method"):
        ConformerOptions(method="magic")


def test_mirror_images_are_sampled_again_with_new_noise(force_field, sampler):
    sampler.broken = lambda call, k: call == 0 and k < 4
    ensemble = generate_conformers(ALANINE, n=2, method="noise", model=force_field(ALANINE))
    first, second = (seeds for _, seeds in sampler.calls)
    assert (len(first), len(second)) == (6, 4)
    assert not set(first) & set(second)
    assert ensemble.counts["sampling_stereo_changed"] == 4
    assert ensemble.counts["sampled"] == 6


def test_what_never_becomes_the_molecule_fails_alone(force_field, sampler):
    sampler.broken = lambda call, k: k < 6  # the first of the two molecules
    bad, good = generate_many([ALANINE, ALANINE], n=2, method="noise", model=force_field(ALANINE))
    assert bad.failure is not None
    assert bad.failure.reason == "sampling_failed"
    assert f"sampling_stereo_changed {6 * ROUNDS}" in bad.failure.message
    assert good.succeeded
    sampler.broken = lambda call, k: True
    with pytest.raises(ConformerError, match="No sample from noise"):
        generate_conformers(ALANINE, n=2, method="noise", model=force_field(ALANINE))


def test_a_molecule_gets_no_more_than_its_time(force_field, sampler, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("consistent_calc.conformers.sample.time.monotonic", lambda: next(clock))
    common = {"method": "noise", "model": force_field(ALANINE), "max_atoms_per_batch": 13}
    ensemble = generate_conformers(ALANINE, n=2, max_time=4, **common)
    assert ensemble.counts["sampled"] == 3
    assert "only 3 of 6 samples from noise within max_time" in ensemble.notes
    with pytest.raises(ConformerError, match="no time") as caught:
        generate_conformers(ALANINE, n=2, max_time=1e-9, **common)
    assert caught.value.reason == "sampling_timeout"


def test_noise_takes_over_where_etkdg_finds_nothing(force_field, sampler, monkeypatch):
    def fails(entry, options):
        raise ConformerError("ETKDG found no geometry.", "embedding_failed")

    monkeypatch.setattr(sys.modules[stream.__module__], "embed", fails)
    ensemble = generate_conformers(ALANINE, n=2, model=force_field(ALANINE))
    assert ensemble.counts["sampled"] == 6
    assert any("made from noise" in note for note in ensemble.notes)
    sampler.broken = lambda call, k: True
    with pytest.raises(ConformerError, match="No sample from noise") as caught:
        generate_conformers(ALANINE, n=2, model=force_field(ALANINE))
    assert caught.value.reason == "embedding_failed"


def test_seeds_do_not_depend_on_the_batch(force_field, sampler):
    model = force_field(ALANINE)
    generate_conformers(ALANINE, n=2, method="noise", model=model)
    list(generate_many([ALANINE, ALANINE], n=2, method="noise", model=model))
    alone, together = (seeds for _, seeds in sampler.calls)
    assert together == alone * 2
