"""The frozen energy is the model's own energy, and nothing can be learned through it."""

from __future__ import annotations

import copy

import pytest
import torch

from consistent_calc.errors import ConfigurationError
from consistent_calc.losses.frozen import FrozenEnergy
from consistent_calc.structures import StructureBatch


@pytest.fixture
def two(batch):
    """Two structures, the second one distorted."""
    noise = torch.randn(batch.n_atoms, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return StructureBatch.concatenate([batch, batch.with_positions(batch.positions + 0.1 * noise)])


def test_one_trainable_weight_is_refused(model, batch):
    trainable = copy.deepcopy(model)
    FrozenEnergy(trainable, batch)
    next(trainable.structure_head.parameters()).requires_grad_(True)
    with pytest.raises(ConfigurationError, match="frozen"):
        FrozenEnergy(trainable, batch)


@pytest.mark.parametrize("level", [0, 1])
def test_it_is_the_energy_of_the_model_without_references(model, two, level):
    predicted = model.predict(two, level=model.levels[level])
    references = model.references[level][model.element_indices(two)]
    references = torch.zeros(2, dtype=torch.float64).index_add(0, two.graph, references)
    energy = FrozenEnergy(model, two, level)
    torch.testing.assert_close(energy(two.positions), predicted.energy - references, rtol=0, atol=1e-7)
    torch.testing.assert_close(energy.forces(two.positions), predicted.forces, rtol=0, atol=1e-9)


def test_the_gradient_is_minus_the_force(model, two):
    x = two.positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(FrozenEnergy(model, two)(x).sum(), x)
    torch.testing.assert_close(gradient, -model.predict(two).forces, rtol=0, atol=1e-9)


def test_forces_are_constants(model, batch):
    x = batch.positions.clone().requires_grad_()
    energy = FrozenEnergy(model, batch)
    forces = energy.forces(x)
    assert not forces.requires_grad
    with torch.no_grad():
        assert torch.equal(energy.forces(x), forces)
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())
