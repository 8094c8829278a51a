"""Batches of the energy task, and Gaussian noise and samples of the harmonic prior in those of the structure task."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from consistent_calc.data.dataset import Labels
from consistent_calc.diffusion.prior import harmonic_positions
from consistent_calc.losses.structure import align
from consistent_calc.structures import StructureBatch
from consistent_calc.train.batches import composition_energy, draw_noise, energy_batch, noisy_batch
from consistent_calc.train.configuration import Consistency, Noise, Weights
from consistent_calc.train.objective import Objective

SETTINGS = Noise(high=2.0, prior_share=0.4, prior_level=3.0)
N = 12


@pytest.fixture
def clean(batch):
    """Structures away from the origin."""
    many = StructureBatch.concatenate([batch] * N)
    return many.with_positions(many.positions + 7)


def draw(clean, settings, seed=0):
    return draw_noise(clean, settings, torch.Generator().manual_seed(seed))


def test_some_structures_become_samples_of_the_prior(clean, model):
    sigma, noise = draw(clean, SETTINGS)
    plain, normal = draw(clean, replace(SETTINGS, prior_share=0.0))
    chosen = sigma == 3.0
    assert 0 < int(chosen.sum()) < N
    assert float(plain.max()) <= 2.0
    # The others are what they would be without.
    assert torch.equal(sigma[~chosen], plain[~chosen])
    atoms = chosen[clean.graph]
    assert torch.equal(noise[~atoms], normal[~atoms].to(noise.dtype))
    found = noisy_batch(clean, sigma.double(), noise, model)
    expected = harmonic_positions(clean, normal)
    torch.testing.assert_close(found.noisy[atoms], expected[atoms], rtol=0, atol=1e-12)
    again = draw(clean, SETTINGS)
    assert torch.equal(again[0], sigma)
    assert torch.equal(again[1], noise)


def test_the_share_is_kept(batch):
    many = StructureBatch.concatenate([batch] * 400)
    for share in (0.1, 0.4, 1.0):
        chosen = draw(many, replace(SETTINGS, prior_share=share))[0] == 3.0
        assert float(chosen.double().mean()) == pytest.approx(share, abs=0.06)


def test_the_target_lies_on_the_sample_and_is_the_molecule(clean, model):
    sigma, noise = draw(clean, replace(SETTINGS, prior_share=1.0))
    found = noisy_batch(clean, sigma.double(), noise, model)
    target = found.target.positions
    torch.testing.assert_close(align(target, found.noisy, clean.graph, N), target)
    back = align(target, clean.positions, clean.graph, N)
    heavy = clean.numbers > 1  # hydrogens may be exchanged
    assert float((back - clean.positions)[heavy].norm(dim=1).max()) < 0.3
    assert float((target - found.noisy).square().sum(1).mean().sqrt()) < 3.0


def test_every_loss_takes_them(clean, model):
    trained = copy.deepcopy(model).requires_grad_(True)
    weights, settings = Weights(optimality=1.0, score=1.0), Consistency(optimality="newton", optimality_noise=(0, 100))
    sigma, noise = draw(clean, replace(SETTINGS, prior_share=1.0))
    losses = Objective(trained, weights, settings, model).structure_losses(
        noisy_batch(clean, sigma.double(), noise, trained)
    )
    assert losses["structure"] > 0
    assert losses["optimality"] > 0
    assert losses["score"] == 0
    (losses["structure"] + losses["optimality"]).backward()
    assert trained.structure_head.displacement.weight.grad.abs().max() > 0


def test_compressed_structures_are_predicted_as_they_are_in_use(batch, model):
    crushed = batch.with_positions(batch.positions * 0.6)
    said = model.predict(crushed)
    labels = Labels(
        level=model.levels[0],
        molecule=torch.arange(crushed.n_graphs),
        energy=said.energy,
        forces=said.forces,
        partial_charges=said.charges,
    )
    data = energy_batch([(crushed, labels)], model)
    assert float(data.repulsion.min()) > 1
    found = Objective(model, Weights()).predict(data)
    references = composition_energy(model, crushed, 0)
    torch.testing.assert_close(found["energy"] + references, said.energy, rtol=0, atol=1e-8)
    torch.testing.assert_close(found["forces"], said.forces, rtol=0, atol=1e-8)
    losses = Objective(model, Weights()).energy_losses(data)
    assert float(losses["energy"].detach()) < 1e-8
    assert float(losses["forces"].detach()) < 2e-6  # lengths are rounded off at zero
