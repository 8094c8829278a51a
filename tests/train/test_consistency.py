"""Consistency losses on a batch: what they compare, and where their gradient goes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from consistent_calc.errors import ConfigurationError
from consistent_calc.losses.symmetry import equivalent_sets
from consistent_calc.structures import StructureBatch
from consistent_calc.train.batches import noisy_batch
from consistent_calc.train.configuration import Consistency, Weights, read_config
from consistent_calc.train.consistency import Denoised, optimality, score
from consistent_calc.train.objective import Objective
from consistent_calc.train.trainer import Trainer

SIGMA = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
KT = 0.2
INSIDE = slice(17, 34)
WINDOW = Consistency(optimality_noise=(0.5, 1.0), score_noise=(0.5, 1.0), temperature_energy=KT)


def normal(seed):
    return torch.randn(51, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def data(batch):
    """Three structures of 17 atoms; the window holds the second one."""
    clean = StructureBatch.concatenate([batch] * 3)
    clean = clean.with_positions(clean.positions + 0.02 * normal(0))
    return Denoised(
        clean,
        clean.positions + 0.1 * normal(1),
        (clean.positions + 0.05 * normal(2)).requires_grad_(),
        SIGMA,
    )


def losses(model, data, settings=WINDOW):
    # With this seed the displaced structures lie lower, so that the comparison is not zero.
    yield from (optimality(model, data, replace(settings, optimality=o), 0) for o in ("comparison", "gap", "slope"))
    yield from (score(model, data, replace(settings, score=s)) for s in ("noisy", "clean"))


def forces(model, data, positions, level=None):
    return model.predict(data.clean.with_positions(positions.detach()), level=level).forces


class TestWindow:
    def test_between(self, data):
        some = data.between((0.5, 2.0))
        assert some.sigma.tolist() == [0.5, 2.0]
        assert some.clean.graph.tolist() == [0] * 17 + [1] * 17
        for name in ("noisy", "denoised"):
            assert torch.equal(getattr(some, name), getattr(data, name)[17:])
        assert torch.equal(some.clean.positions, data.clean.positions[17:])
        assert data.between((0.6, 1.9)) is None

    def test_structures_outside_get_no_gradient(self, model, data):
        for loss in losses(model, data):
            (gradient,) = torch.autograd.grad(loss, data.denoised)
            assert gradient[INSIDE].abs().max() > 0
            assert not gradient[:17].any()
            assert not gradient[34:].any()

    def test_an_empty_window_is_harmless(self, model, data):
        empty = replace(WINDOW, optimality_noise=(3.0, 4.0), score_noise=(3.0, 4.0))
        for loss in losses(model, data, empty):
            assert loss == 0
            (gradient,) = torch.autograd.grad(loss + data.denoised.sum(), data.denoised)
            assert (gradient == 1).all()

    def test_others_in_the_batch_do_not_matter(self, model, data):
        alone = data.between((0.5, 1.0))
        for together, single in zip(losses(model, data), losses(model, alone), strict=True):
            torch.testing.assert_close(together, single)


class TestOptimality:
    def test_the_gap_pulls_along_the_frozen_forces(self, model, data):
        loss = optimality(model, data, replace(WINDOW, optimality="gap"), 0)
        (gradient,) = torch.autograd.grad(loss, data.denoised)
        expected = -forces(model, data, data.denoised)[INSIDE] / 17
        torch.testing.assert_close(gradient[INSIDE], expected, rtol=0, atol=1e-10)
        energy = [
            model.predict(data.clean.with_positions(x.detach())).energy[1]
            for x in (data.denoised, data.clean.positions)
        ]
        assert float(loss.detach()) == pytest.approx(float(energy[0] - energy[1]) / 17, abs=1e-8)

    def test_the_slope_is_the_frozen_force(self, model, data):
        loss = optimality(model, data, replace(WINDOW, optimality="slope"), 0)
        expected = forces(model, data, data.denoised)[INSIDE].norm(dim=1).mean()
        torch.testing.assert_close(loss.detach(), expected)

    def test_the_displacements_belong_to_the_seed(self, model, data):
        before = torch.get_rng_state()
        found = [float(optimality(model, data, WINDOW, seed).detach()) for seed in (*range(6), 0)]
        assert torch.equal(torch.get_rng_state(), before)
        assert found[0] == found[-1]
        assert min(found) == 0 < max(found)
        small = [float(optimality(model, data, replace(WINDOW, displacement=1e-6), s).detach()) for s in range(6)]
        assert max(small) < 1e-4 * max(found)

    def test_the_level_chooses_the_readout(self, model, data):
        settings = replace(WINDOW, optimality="slope", level=model.levels[1])
        expected = forces(model, data, data.denoised, model.levels[1])[INSIDE].norm(dim=1).mean()
        torch.testing.assert_close(optimality(model, data, settings, 0).detach(), expected)
        assert abs(optimality(model, data, replace(settings, level=None), 0) - expected) > 1e-3


class TestScore:
    @pytest.mark.parametrize("form", ["noisy", "clean"])
    def test_force_over_kt_at_the_right_place(self, model, data, form):
        settings = replace(WINDOW, score=form)
        push = forces(model, data, data.noisy if form == "noisy" else data.clean.positions) / KT
        sigma = SIGMA[data.clean.graph, None]

        def value(factor):
            """Loss of a denoiser whose score is ``factor * F / kT``."""
            return float(score(model, replace(data, denoised=data.noisy + factor * sigma**2 * push), settings))

        scale = float((0.25 * push[INSIDE].square().sum(1)).mean())
        assert scale > 0.1
        assert value(1) == pytest.approx(0, abs=1e-12)
        for factor in (-1, 0, 0.5, 2):
            assert value(factor) == pytest.approx((factor - 1) ** 2 * scale, rel=1e-6)

    def test_no_gradient_but_through_the_denoised(self, model, data):
        noisy = data.noisy.clone().requires_grad_()
        clean = data.clean.with_positions(data.clean.positions.clone().requires_grad_())
        for form in ("noisy", "clean"):
            # The noisy positions enter Tweedie's formula, but the forces there are constants.
            found = score(model, replace(data, noisy=noisy, clean=clean), replace(WINDOW, score=form))
            x, d = torch.autograd.grad(found, (noisy, data.denoised))
            torch.testing.assert_close(x, -d)
        assert clean.positions.grad is None


class TestObjective:
    weights = Weights(optimality=1.0, score=1.0)
    settings = Consistency(optimality_noise=(0.0, 9.0), score_noise=(0.0, 9.0))

    def test_weights_switch_the_losses(self, model, batch):
        noisy = noisy_batch(StructureBatch.concatenate([batch] * 3), SIGMA, normal(4), model)
        plain = Objective(model, Weights(), self.settings, model).structure_losses(noisy)
        assert set(plain) == {"structure"}
        both = Objective(model, self.weights, self.settings, model).structure_losses(noisy)
        assert set(both) == {"structure", "optimality", "score"}
        assert both["structure"] == plain["structure"]
        with pytest.raises(ConfigurationError, match="frozen"):
            Objective(model, self.weights)

    def test_turned_noisy_structures_have_the_same_losses(self, model, batch):
        sigma = SIGMA[1:2]
        quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
        settings = replace(self.settings, optimality="gap", score="clean")
        noisy = batch.positions + sigma * normal(4)[:17]
        found = [
            Objective(model, self.weights, settings, model).structure_losses(
                noisy_batch(batch, sigma, (x - batch.positions) / sigma, model)
            )
            for x in (noisy, noisy @ quarter + 3)
        ]
        for name in ("structure", "optimality", "score"):
            torch.testing.assert_close(found[0][name], found[1][name], msg=name)

    def test_only_the_structure_task_learns(self, model, batch):
        trained = copy.deepcopy(model).requires_grad_(True)
        noisy = noisy_batch(StructureBatch.concatenate([batch] * 3), SIGMA, normal(4), model)
        for optimality_form in ("comparison", "gap", "slope"):
            settings = replace(self.settings, optimality=optimality_form)
            found = Objective(trained, self.weights, settings, model).structure_losses(noisy, 1)
            for name in ("optimality", "score"):
                trained.zero_grad()
                found[name].backward(retain_graph=True)
                assert trained.structure_head.displacement.weight.grad.abs().max() > 0, name
                assert all(p.grad is None for p in trained.energy_head.parameters())
                assert all(p.grad is None for p in model.parameters())

    def test_a_model_cannot_judge_itself(self, model, batch):
        trained = copy.deepcopy(model).requires_grad_(True)
        objective = Objective(trained, self.weights, self.settings, trained)
        with pytest.raises(ConfigurationError, match="frozen"):
            objective.structure_losses(noisy_batch(StructureBatch.concatenate([batch] * 3), SIGMA, normal(4), model))

    def test_exchanged_hydrogens_are_no_error(self, model, batch):
        """Noise that exactly exchanges the hydrogens of NH2 costs a denoiser nothing that returns its input."""
        still = copy.deepcopy(model)
        still.structure_head.displacement.weight.zero_()
        swapped = torch.arange(17)
        (pair,) = equivalent_sets(batch)[0]
        swapped[pair] = pair.flip(0)
        sigma = torch.tensor([0.05], dtype=torch.float64)
        noise = (batch.positions[swapped] - batch.positions) / sigma
        loss = Objective(still, Weights()).structure_losses(noisy_batch(batch, sigma, noise, still))["structure"]
        assert float(loss) < 1e-6
        # A rotation is no error either.
        quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
        noise = (batch.positions @ quarter - batch.positions) / sigma
        assert (
            float(Objective(still, Weights()).structure_losses(noisy_batch(batch, sigma, noise, still))["structure"])
            < 1e-6
        )


def test_runs_with_and_without_consistency_see_the_same_data_and_noise(run_folder: Path) -> None:
    config, base = read_config(run_folder / "config.toml")
    consistent = replace(
        config,
        output="consistent",
        weights=replace(config.weights, optimality=0.1, score=0.1),
        consistency=replace(config.consistency, optimality_noise=(0.0, 9.0), score_noise=(0.0, 9.0)),
    )
    seen: list[list[torch.Tensor]] = []
    first: list[dict[str, float]] = []
    for settings in (config, consistent):
        trainer = Trainer(settings, base)
        arguments: list[torch.Tensor] = []
        inner = trainer.objective.structure_losses, trainer.objective.energy_losses

        def structure(batch, seed, inner=inner[0], arguments=arguments):
            arguments += [batch.target.positions, batch.target.numbers, batch.sigma, batch.noisy]
            return inner(batch, seed)

        def energy(batch, inner=inner[1], arguments=arguments):
            arguments.append(batch.positions)
            return inner(batch)

        trainer.objective.structure_losses, trainer.objective.energy_losses = structure, energy  # type: ignore[method-assign]
        steps = [trainer.train_step() for _ in range(2)]
        first.append(steps[0])
        seen.append(arguments)
    assert len(seen[0]) == 10
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert {"optimality", "score"} == set(first[1]) - set(first[0])
    for name in ("energy", "forces", "structure"):
        assert first[0][name] == first[1][name]
    assert first[1]["score"] > 0
