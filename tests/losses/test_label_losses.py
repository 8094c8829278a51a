"""Energies, forces, charges and dipoles with missing labels."""

from __future__ import annotations

import math

import pytest
import torch

from consistent_calc.losses.labels import charge_loss, energy_loss, masked_mean, vector_loss

NAN = math.nan


def test_energy():
    predicted, reference = torch.tensor([1.0, 5.0, 9.0]), torch.tensor([2.0, 1.0, NAN])
    loss = energy_loss(predicted, reference, torch.tensor([4, 16, 9]))
    assert float(loss) == pytest.approx((1 / 2 + 4 / 4) / 2)


def test_vectors():
    predicted = torch.tensor([[3.0, 4.0, 0.0], [9.0, 9.0, 9.0], [1.0, 0.0, 0.0]])
    reference = torch.tensor([[0.0, 0.0, 0.0], [NAN, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert float(vector_loss(predicted, reference)) == pytest.approx(2.5, abs=1e-5)


def test_charges():
    assert float(charge_loss(torch.tensor([0.5, 0.1]), torch.tensor([0.0, NAN]))) == pytest.approx(0.5)


def test_no_labels_at_all():
    reference = torch.full((3,), NAN)
    assert masked_mean(torch.ones(3), reference) == 0
    assert energy_loss(torch.ones(3), reference, torch.ones(3)) == 0


@pytest.mark.parametrize("missing", [1, 2])
def test_gradients_ignore_missing_labels(missing):
    predicted = torch.ones(2, 3, requires_grad=True)
    reference = torch.zeros(2, 3)
    reference[:missing] = NAN
    vector_loss(predicted, reference).backward()
    assert torch.isfinite(predicted.grad).all()
    assert (predicted.grad[:missing] == 0).all()
    assert bool((predicted.grad[missing:] != 0).all())


def test_a_perfect_prediction_has_a_finite_gradient():
    predicted = torch.zeros(2, 3, requires_grad=True)
    vector_loss(predicted, torch.zeros(2, 3)).backward()
    assert (predicted.grad == 0).all()
