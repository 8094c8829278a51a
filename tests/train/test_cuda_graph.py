"""Batches of a fixed size, and the captured energy task against the ordinary one."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from consistent_calc.train.batches import EnergyBatch, energy_batch
from consistent_calc.train.configuration import Weights, read_config
from consistent_calc.train.cuda_graph import CapturedEnergyTask, Size, pad
from consistent_calc.train.objective import Objective
from consistent_calc.train.trainer import Trainer

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def setup(run_folder: Path, device: str = "cpu") -> tuple[Objective, list[EnergyBatch]]:
    config, base = read_config(run_folder / "config.toml")
    trainer = Trainer(replace(config, device=device), base)
    data = trainer.feed.energy[0]
    trainer.model.double()
    batches = []
    for rows in (np.arange(12), np.arange(20, 25)):
        structures, labels = data.batch(rows)
        assert labels.energy is not None
        labels.energy[1] = torch.nan
        batches.append(energy_batch([(structures, labels)], trainer.model))
    return Objective(trainer.model, Weights()), batches


def gradients(objective: Objective, batch: EnergyBatch) -> tuple[dict[str, Tensor], list[Tensor | None]]:
    objective.model.zero_grad()
    losses = objective.energy_losses(batch)
    objective.total(losses).backward()
    return {k: v.detach() for k, v in losses.items()}, [p.grad for p in objective.model.parameters()]


def assert_same(found: tuple[dict[str, Tensor], list[Tensor | None]], expected) -> None:
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-10, atol=1e-12)
    for a, b in zip(found[1], expected[1], strict=True):
        if b is None:
            assert a is None
        else:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("extra", [Size(1, 0, 1), Size(7, 50, 3)])
def test_filling_up_changes_nothing(run_folder: Path, extra: Size) -> None:
    objective, (batch, _) = setup(run_folder)
    now = Size.of(batch)
    size = Size(now.atoms + extra.atoms, now.edges + extra.edges, now.graphs + extra.graphs)
    assert size.holds(now)
    padded = pad(batch, size, objective.model.cutoff)
    assert Size.of(padded) == size
    for field in fields(EnergyBatch):
        if field.name != "has_forces":
            assert getattr(padded, field.name).dtype == getattr(batch, field.name).dtype
    assert_same(gradients(objective, padded), gradients(objective, batch))


def test_sizes() -> None:
    size = Size(100, 900, 10)
    assert size.with_room(1.1).holds(size)
    assert Size(5, 10, 2).with_room(1.1).holds(Size(5, 10, 2))
    assert not size.holds(size)
    assert not Size(105, 1000, 20).holds(size)  # ten structures cannot be made of five atoms
    assert not Size(200, 800, 20).holds(size)
    assert size.holding(Size(50, 1000, 3)) == Size(100, 1000, 10)


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("compiled", [False, True])
def test_replayed_gradients(run_folder: Path, compiled: bool) -> None:
    eager, (large, small) = setup(run_folder, "cuda")
    expected = [gradients(eager, batch) for batch in (large, small)]
    objective = Objective(eager.model, Weights(), compile=compiled)
    task = CapturedEnergyTask(objective, small, Size.of(large).with_room())
    for batch, wanted in ((large, expected[0]), (small, expected[1]), (large, expected[0])):
        assert task.holds(batch)
        eager.model.zero_grad()
        losses = task.backward(batch)
        assert_same((losses, [p.grad for p in eager.model.parameters()]), wanted)
