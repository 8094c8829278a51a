"""Checkpoints: exact round trips, and a clear refusal of anything damaged."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from consistent_calc.checkpoint import load_model, read_card, save_model, shipped
from consistent_calc.errors import CheckpointError
from consistent_calc.model import ConsistentModel


@pytest.fixture
def single(model):
    return copy.deepcopy(model).float()


@pytest.fixture
def card(single, tmp_path):
    """Path of the card of a saved model."""
    return save_model(single, tmp_path / "new" / "model", {"steps": 7})


def rewrite(card, **entries):
    card.write_text(json.dumps(json.loads(card.read_text()) | entries))


class TestRoundTrip:
    def test_predictions_are_identical(self, single, card, batch):
        for path in (card, card.with_suffix(""), card.with_suffix(".safetensors"), str(card)):
            loaded = load_model(path)
            assert loaded.config == single.config
            assert loaded.dtype == torch.float32
            assert not loaded.training
            assert not any(p.requires_grad for p in loaded.parameters())
            assert torch.equal(loaded.predict(batch).energy, single.predict(batch).energy)
            assert torch.equal(loaded.predict(batch).forces, single.predict(batch).forces)

    def test_in_float64(self, single, card, batch):
        loaded = load_model(card, dtype=torch.float64)
        assert loaded.dtype == torch.float64
        assert torch.equal(loaded.references, single.references)
        expected = copy.deepcopy(single).double().predict(batch)
        assert torch.equal(loaded.predict(batch).energy, expected.energy)
        assert torch.equal(loaded.predict(batch).forces, expected.forces)

    def test_float64_weights_are_not_rounded(self, model, tmp_path, batch):
        loaded = load_model(save_model(model, tmp_path / "model"), dtype=torch.float64)
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name

    def test_a_model_from_before_the_harmonic_prior_does_not_know_it(self, card):
        table = json.loads(card.read_text())["architecture"]
        del table["prior_level"]
        rewrite(card, architecture=table)
        assert load_model(card).prior_level is None
        rewrite(card, architecture=table | {"prior_level": 3.0})
        assert load_model(card).prior_level == 3.0

    def test_a_name_with_a_dot(self, single, tmp_path):
        card = save_model(single, tmp_path / "model-1.5")
        assert card.name == "model-1.5.json"
        assert load_model(tmp_path / "model-1.5").config == single.config

    def test_the_card(self, card, single):
        content = read_card(card)
        assert content["record"] == {"steps": 7}
        assert content["units"] == {"energy": "eV", "length": "Angstrom", "charge": "e"}
        assert tuple(content["architecture"]["levels"]) == single.levels
        assert sorted(p.name for p in card.parent.iterdir()) == ["model.json", "model.safetensors"]

    def test_saving_again_replaces(self, other_model, card, batch):
        save_model(copy.deepcopy(other_model).float(), card)
        expected = copy.deepcopy(other_model).float().predict(batch).energy
        assert torch.equal(load_model(card).predict(batch).energy, expected)

    def test_the_shipped_path(self):
        assert shipped("base").parent.name == "checkpoints"

    @pytest.mark.parametrize("name", ["base", "base.json", Path("base")])
    def test_a_shipped_one_by_name(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert read_card(name) == read_card()
        assert load_model(name).levels == load_model().levels

    def test_a_file_goes_before_a_name(self, single, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save_model(single, "base")
        assert read_card("base")["record"] == {} != read_card()["record"]
        assert read_card() != read_card("base")

    def test_half_a_file_is_not_replaced_by_a_shipped_one(self, single, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save_model(single, "base")
        Path("base.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"weights .* cannot be read"):
            load_model("base")

    def test_a_path_is_no_name(self, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_card(tmp_path / "base")


class TestDamage:
    def test_missing_files(self, card, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_model(tmp_path / "none")
        card.with_suffix(".safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"weights .* cannot be read"):
            load_model(card)

    def test_truncated_weights(self, card):
        weights = card.with_suffix(".safetensors")
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="truncated or was altered"):
            load_model(card)

    def test_an_altered_byte(self, card):
        weights = card.with_suffix(".safetensors")
        data = bytearray(weights.read_bytes())
        data[-1000] ^= 1
        weights.write_bytes(data)
        with pytest.raises(CheckpointError, match="sha256"):
            load_model(card)

    def test_another_architecture(self, card):
        table = json.loads(card.read_text())["architecture"]
        for change in ({"channels": [32, 8, 4]}, {"n_layers": 3}, {"unknown": 1}):
            rewrite(card, architecture=table | change)
            with pytest.raises(CheckpointError, match="do not fit together"):
                load_model(card)

    def test_not_json(self, card):
        card.write_text(card.read_text()[:-20])
        with pytest.raises(CheckpointError, match="not valid JSON"):
            load_model(card)
        card.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(CheckpointError, match="not valid JSON"):
            load_model(card)

    def test_not_a_card(self, card):
        for text in ("[]", "{}", '{"format": "something else"}'):
            card.write_text(text)
            with pytest.raises(CheckpointError, match="not a card"):
                load_model(card)

    def test_another_version(self, card):
        rewrite(card, format_version=2)
        with pytest.raises(CheckpointError, match="version 2"):
            load_model(card)

    def test_an_incomplete_card(self, card):
        content = json.loads(card.read_text())
        del content["sha256"]
        card.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="lacks sha256"):
            load_model(card)

    def test_weights_that_are_no_safetensors(self, card):
        import hashlib

        data = b"\x80\x04pickle"
        card.with_suffix(".safetensors").write_bytes(data)
        rewrite(card, sha256=hashlib.sha256(data).hexdigest())
        with pytest.raises(CheckpointError, match="do not fit together"):
            load_model(card)


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name(path: str, model: ConsistentModel) -> None:
    with pytest.raises(CheckpointError, match="no name of a checkpoint"):
        load_model(path)
    with pytest.raises(CheckpointError, match="no name of a checkpoint"):
        save_model(model, path)
