"""A second stage starts from exactly what the first one learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from toy_molecules import ATOM_ENERGY

from consistent_calc.checkpoint import load_model
from consistent_calc.data import Split, Store
from consistent_calc.model import ConsistentModel, ModelConfig
from consistent_calc.structures import StructureBatch
from consistent_calc.train.configuration import read_config
from consistent_calc.train.continuation import extend_model
from consistent_calc.train.references import fit_references
from consistent_calc.train.trainer import Trainer

ELEMENTS = tuple(ATOM_ENERGY)
EXACT = torch.tensor(list(ATOM_ENERGY.values()), dtype=torch.float64)


@pytest.fixture
def data(toy_store):
    """H, C, N, O and F at the level ``springs``."""
    return Store(toy_store).read(Split.TRAIN)


def small(elements, levels, dtype=torch.float64):
    """An untrained model whose references are the true ones."""
    torch.manual_seed(0)
    model = ConsistentModel(ModelConfig(elements, levels, channels=(16, 8, 4), n_layers=2)).to(dtype)
    model.references.copy_(EXACT[[ELEMENTS.index(z) for z in elements]])
    return model.eval().requires_grad_(False)


def assert_same_predictions(old, new, structures, level):
    a, b = (m.predict(structures, level=level) for m in (old, new))
    for name in ("energy", "energies", "forces", "charges"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


class TestExtension:
    def test_nothing_new(self, data):
        model = small(ELEMENTS, ("springs",))
        assert extend_model(model, [data], 0) is model

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_new_level(self, model, batch, data, dtype):
        model = model if dtype == torch.float64 else small(model.elements[:5], model.levels, dtype)
        larger = extend_model(model, [data], 0)
        assert larger.levels == (*model.levels, "springs")
        assert larger.elements == model.elements
        assert (larger.dtype, larger.references.dtype) == (dtype, torch.float64)
        for level in (None, *model.levels):
            assert_same_predictions(model, larger, batch, level)
        moved, sigma = batch.to(dtype=dtype), torch.tensor([0.3], dtype=dtype)
        assert torch.equal(model.denoise(moved, sigma), larger.denoise(moved, sigma))
        # The new level begins as a copy of the default one, on its own references.
        new, default = larger.predict(batch, level="springs"), larger.predict(batch)
        assert torch.equal(new.forces, default.forces)
        assert np.allclose(larger.references[-1, :5], EXACT, atol=1.0)
        assert not larger.references[-1, 5:].any()

    def test_new_elements(self, data):
        model = small((1, 6, 8), ("springs",))
        larger = extend_model(model, [data], 0)
        assert larger.elements == ELEMENTS
        known = [ELEMENTS.index(z) for z in (1, 6, 8)]
        assert torch.equal(larger.references[0, known], model.references[0])
        new = [ELEMENTS.index(z) for z in (7, 9)]
        assert np.allclose(larger.references[0, new], EXACT[new], atol=0.5)
        ethanol = StructureBatch.from_ase(molecule("CH3CH2OH"))
        assert_same_predictions(model, larger, ethanol, "springs")
        graph = replace(ethanol, bonds=torch.tensor([[0, 1, 2], [0, 2, 2]]), stereo=torch.zeros(0, 5).long())
        sigma = torch.tensor([0.3], dtype=torch.float64)
        assert torch.equal(model.denoise(graph, sigma), larger.denoise(graph, sigma))
        # The embeddings of the new ones differ from each other and belong to the seed.
        rows = larger.encoder.elements.weight[new]
        assert (rows[0] - rows[1]).abs().max() > 0.1
        assert torch.equal(rows, extend_model(model, [data], 0).encoder.elements.weight[new])
        assert not torch.equal(rows, extend_model(model, [data], 1).encoder.elements.weight[new])

    def test_an_element_that_is_new_to_one_level_gets_its_reference_there(self, data):
        model = small(ELEMENTS, ("other", "springs"))
        model.references[1, -1] = 0
        larger = extend_model(model, [data], 0)
        assert larger.references[1, -1] == pytest.approx(ATOM_ENERGY[9], abs=0.5)
        assert torch.equal(larger.references[:, :-1], model.references[:, :-1])
        assert larger.references[0, -1] == ATOM_ENERGY[9]

    def test_the_harmonic_prior(self, data, batch):
        model = small(ELEMENTS, ("springs",))
        larger = extend_model(model, [data], 0, prior_level=3.0)
        assert (model.prior_level, larger.prior_level) == (None, 3.0)
        for name, value in model.state_dict().items():
            assert torch.equal(larger.state_dict()[name], value), name
        sigma = torch.tensor([2.0], dtype=torch.float64)
        assert torch.equal(larger.denoise(batch, sigma), model.denoise(batch, sigma))
        # A stage that does not train on it leaves it as it is.
        assert extend_model(larger, [data], 0) is larger

    def test_the_caller_notices_nothing(self, model, data):
        before, weights = torch.get_rng_state(), {n: v.clone() for n, v in model.state_dict().items()}
        extend_model(model, [data], 0)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(v, weights[n]) for n, v in model.state_dict().items())


class TestReferences:
    def test_every_level_of_several_is_fitted(self, data):
        shifted = replace(data, level="other", energy=data.energy + 5.0 * data.n_atoms)
        table = fit_references([data, shifted, data], ("springs", "other"), ELEMENTS)
        assert np.allclose(table[0], EXACT, atol=1.0)
        assert torch.allclose(table[1], table[0] + 5.0, atol=1e-6)

    def test_known_values_are_kept_and_counted(self, data):
        known = torch.full((2, 5), torch.nan, dtype=torch.float64)
        known[0, :4] = EXACT[:4]
        known[1, 2] = 3.0
        table = fit_references([data], ("springs", "other"), ELEMENTS, known)
        assert torch.equal(table[0, :4], EXACT[:4])
        assert table[0, 4] == pytest.approx(ATOM_ENERGY[9], abs=0.5)
        assert table[1].tolist() == [0, 0, 3.0, 0, 0]
        assert known[1].isnan().sum() == 4  # the argument is left alone


class TestStages:
    def second(self, folder: Path, extra: str = "") -> Path:
        text = (folder / "config.toml").read_text().replace('output = "run"', 'output = "two"\nstart = "run/model"')
        path = folder / "two.toml"
        path.write_text(text + extra)
        return path

    def test_a_second_stage_starts_as_the_first_one_ended(self, run_folder, batch):
        first = Trainer(*read_config(run_folder / "config.toml"))
        for _ in range(2):
            first.train_step()
        stage_one = load_model(first.export())
        trainer = Trainer(*read_config(self.second(run_folder, "[weights]\noptimality = 0.1\nscore = 0.1\n")))
        assert trainer.step == 0
        assert all(p.requires_grad for p in trainer.model.parameters())
        assert not any(p.requires_grad for p in trainer.average.parameters())
        for model in (trainer.model, load_model(trainer.export())):
            assert_same_predictions(stage_one, model, batch, None)
            for name, value in model.state_dict().items():
                assert torch.equal(value, stage_one.state_dict()[name]), name
        before = trainer.model.structure_head.displacement.weight.detach().clone()
        assert np.isfinite(trainer.train_step()["gradient_norm"])
        assert not torch.equal(before, trainer.model.structure_head.displacement.weight)
        # Interrupted, it continues from its own state and not from the first stage.
        trainer.save()
        again = Trainer(*read_config(run_folder / "two.toml"))
        assert again.step == 1
        for name, value in again.model.state_dict().items():
            assert torch.equal(value, trainer.model.state_dict()[name]), name

    def test_the_start_may_be_a_shipped_checkpoint(self, run_folder):
        path = self.second(run_folder)
        text = path.read_text()
        (line,) = [line for line in text.splitlines() if line.startswith("start")]
        path.write_text(text.replace(line, 'start = "base"'))
        assert Trainer(*read_config(path)).model.config.channels == load_model().config.channels

    def test_the_architecture_is_that_of_the_start(self, run_folder):
        Trainer(*read_config(run_folder / "config.toml")).export()
        path = self.second(run_folder)
        path.write_text(path.read_text().replace("[16, 8, 4]", "[8, 8, 4]"))
        assert Trainer(*read_config(path)).model.config.channels == (16, 8, 4)
