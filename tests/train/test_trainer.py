from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_molecules import ATOM_ENERGY, CONFIG, record

from consistent_calc.checkpoint import load_model, read_card
from consistent_calc.data import Split, Store, StoreWriter
from consistent_calc.errors import ConfigurationError
from consistent_calc.train.configuration import Weights, read_config
from consistent_calc.train.evaluation import evaluate_energy, sample_molecules
from consistent_calc.train.objective import Objective
from consistent_calc.train.references import fit_references
from consistent_calc.train.trainer import Trainer

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


def test_losses_fall_and_the_model_is_exported(run_folder: Path) -> None:
    (run_folder / "config.toml").write_text(CONFIG.format(steps=60))
    losses: list[dict[str, float]] = []
    trainer = Trainer(*read_config(run_folder / "config.toml"))
    card = trainer.run(lambda _, step: losses.append(step))
    for name in ("forces", "structure"):
        first, last = (np.mean([step[name] for step in part]) for part in (losses[:10], losses[-10:]))
        assert last < 0.9 * first, name
    model = load_model(card)
    assert model.levels == ("springs",)
    assert read_card(card)["record"]["steps"] == 60
    lines = [json.loads(line) for line in (run_folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["kind"] == "validation"
    assert lines[-1]["toy/force_mae_eV_A"] > 0


def test_a_resumed_run_equals_an_uninterrupted_one(run_folder: Path) -> None:
    config, base = read_config(run_folder / "config.toml")
    whole = Trainer(config, base)
    for _ in range(8):
        whole.train_step()
    first = Trainer(config, base)
    for _ in range(5):
        first.train_step()
    first.save()
    second = Trainer(config, base)
    assert second.step == 5
    for _ in range(3):
        second.train_step()
    assert torch.equal(weights(second), weights(whole))


PRIOR = "[noise]\nhigh = 2.0\nprior_share = 0.5\n"


def test_a_resumed_run_repeats_the_samples_of_the_prior(run_folder: Path) -> None:
    config = run_folder / "config.toml"
    config.write_text(config.read_text() + PRIOR)
    whole = Trainer(*read_config(config))
    for _ in range(4):
        whole.train_step()
    first = Trainer(*read_config(config))
    for _ in range(2):
        first.train_step()
    first.save()
    second = Trainer(*read_config(config))
    for _ in range(2):
        second.train_step()
    assert torch.equal(weights(second), weights(whole))


def test_the_checkpoint_tells_that_the_model_knows_the_prior(run_folder: Path) -> None:
    config = run_folder / "config.toml"
    plain = Trainer(*read_config(config))
    assert load_model(plain.export()).prior_level is None
    assert "toy/denoised_rmsd_prior_A" not in plain.validate()
    config.write_text(config.read_text().replace('"run"', '"two"\nstart = "run/model"') + PRIOR)
    trainer = Trainer(*read_config(config))
    trainer.train_step()
    assert trainer.model.prior_level == trainer.average.module.prior_level == 3.0
    assert load_model(trainer.export()).prior_level == 3.0
    assert 0 < trainer.validate()["toy/denoised_rmsd_prior_A"] < 5


def test_sigterm_ends_the_run_with_everything_saved(run_folder: Path) -> None:
    trainer = Trainer(*read_config(run_folder / "config.toml"))

    def interrupt(trainer: Trainer, _: dict[str, float]) -> None:
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.run(interrupt)
    assert trainer.stop_requested
    assert trainer.step == 3
    assert Trainer(*read_config(run_folder / "config.toml")).step == 3
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_architecture_does_not_resume(run_folder: Path) -> None:
    config = run_folder / "config.toml"
    Trainer(*read_config(config)).save()
    config.write_text(config.read_text().replace("[16, 8, 4]", "[8, 8, 4]"))
    with pytest.raises(ConfigurationError, match="another architecture"):
        Trainer(*read_config(config))


@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: b"", lambda x: b"no state of a run"])
def test_a_damaged_state_is_named(run_folder: Path, damage: Callable[[bytes], bytes]) -> None:
    config = run_folder / "config.toml"
    Trainer(*read_config(config)).save()
    state = run_folder / "run" / "state.pt"
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(ConfigurationError, match="is damaged; remove it"):
        Trainer(*read_config(config))


def test_a_state_that_lacks_a_part_is_damaged(run_folder: Path) -> None:
    config = run_folder / "config.toml"
    Trainer(*read_config(config)).save()
    state = torch.load(run_folder / "run" / "state.pt", weights_only=True)
    del state["average"]
    torch.save(state, run_folder / "run" / "state.pt")
    with pytest.raises(ConfigurationError, match="no state of a run"):
        Trainer(*read_config(config))


def test_elements_that_only_the_validation_has_are_refused_at_the_start(run_folder: Path) -> None:
    rng = np.random.default_rng(0)
    with StoreWriter(
        run_folder / "toy.h5", level="springs", provenance="test", licence="MIT", kinds={0: "all"}
    ) as writer:
        for smiles, bucket in (("CO", 0), ("CF", 90)):
            writer.add(record(smiles, bucket, rng))
    with pytest.raises(ConfigurationError, match=r"hold F\b"):
        Trainer(*read_config(run_folder / "config.toml"))


def test_a_device_that_is_not_there_is_named(run_folder: Path) -> None:
    config, base = read_config(run_folder / "config.toml")
    with pytest.raises(ConfigurationError, match="The device 'foo' cannot be used"):
        Trainer(replace(config, device="foo"), base)


def test_stores_may_be_added_but_not_removed(run_folder: Path) -> None:
    config = run_folder / "config.toml"
    trainer = Trainer(*read_config(config))
    trainer.train_step()
    trainer.save()
    config.write_text(config.read_text() + '[[energy]]\nstore = "toy.h5"\natoms = 20\n')
    longer = Trainer(*read_config(config))
    longer.train_step()
    assert longer.step == 2
    longer.save()
    config.write_text(CONFIG.format(steps=12))
    with pytest.raises(ConfigurationError, match="not fewer"):
        Trainer(*read_config(config))


def test_forces_can_be_left_out(run_folder: Path) -> None:
    config, base = read_config(run_folder / "config.toml")
    without = replace(config.energy[0], forces=False)
    first = Trainer(config, base)
    expected = first.train_step()
    losses = Trainer(replace(config, energy=(without,)), base).train_step()
    assert losses["forces"] == 0
    assert losses["energy"] == expected["energy"] > 0
    assert np.isfinite(losses["gradient_norm"])
    # Beside a store with forces it does not dilute their mean.
    losses = Trainer(replace(config, energy=(config.energy[0], without)), base).train_step()
    assert losses["forces"] == pytest.approx(expected["forces"], rel=1e-5)


def test_references_recover_atomic_energies(run_folder: Path) -> None:
    data = Store(run_folder / "toy.h5").read(Split.TRAIN)
    elements = tuple(sorted(ATOM_ENERGY))
    table = fit_references([data], ("springs", "other"), elements)
    # Six molecules and five elements: the springs' energy (some 0.1 eV) is what the fit cannot explain.
    assert np.allclose(table[0], [ATOM_ENERGY[z] for z in elements], atol=1.0)
    assert not table[1].any()


def test_evaluation_takes_off_the_mean_error_of_each_molecule(run_folder: Path) -> None:
    trainer = Trainer(*read_config(run_folder / "config.toml"))
    data = Store(run_folder / "toy.h5").read(Split.TRAIN)
    errors = evaluate_energy(trainer.model, data)
    before = errors.relative_energy_mae()
    errors.energy[:] += 3.0 * errors.molecule
    assert errors.relative_energy_mae() == pytest.approx(before)
    assert set(errors.by_element()) == {"H", "C", "N", "O", "F"}
    assert errors.by_kind({0: "all"})["all"]["n"] == len(data)
    assert not any(np.isnan(v) for row in errors.by_element().values() for v in row.values())


def test_a_sample_holds_whole_molecules(run_folder: Path) -> None:
    data = Store(run_folder / "toy.h5").read(Split.TRAIN)
    chosen = sample_molecules(data, 18)
    assert len(chosen) == 18
    assert all((data.molecule[chosen] == m).sum() == 9 for m in set(data.molecule[chosen]))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_CUDA])])
def test_compiled_gradients_equal_eager_ones(run_folder: Path, device: str) -> None:
    """Some ways of compiling forces give silently wrong parameter gradients; ours must not."""
    from consistent_calc.train.batches import energy_batch

    config, base = read_config(run_folder / "config.toml")
    trainer = Trainer(replace(config, device=device), base)
    batch = energy_batch([trainer.feed.energy[0].batch(np.arange(12))], trainer.model)
    gradients = []
    for compiled in (False, True):
        objective = Objective(trainer.model, Weights(), compile=compiled)
        trainer.model.zero_grad()
        objective.total(objective.energy_losses(batch)).backward()
        gradients.append({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
    eager, compiled_gradients = gradients
    assert eager.keys() == compiled_gradients.keys()
    for name, gradient in eager.items():
        assert torch.allclose(gradient, compiled_gradients[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.slow
def test_two_processes_train_in_step(run_folder: Path) -> None:
    script = run_folder / "ddp.py"
    script.write_text(
        "import sys, torch\n"
        "from consistent_calc.train.configuration import read_config\n"
        "from consistent_calc.train.trainer import Trainer\n"
        "t = Trainer(*read_config(sys.argv[1]))\n"
        "t.run()\n"
        "torch.save(torch.cat([p.detach().reshape(-1) for p in t.model.parameters()]), f'{t.output}/w{t.rank}.pt')\n"
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    subprocess.run([*command, str(script), str(run_folder / "config.toml")], check=True, timeout=300)
    first, second = (torch.load(run_folder / "run" / f"w{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)


def test_the_structure_task_may_come_less_often(run_folder: Path) -> None:
    config, base = read_config(run_folder / "config.toml")
    schedule = replace(config.schedule, steps=5, structure_every=2)
    trainer = Trainer(replace(config, schedule=schedule), base)
    seen = [("structure" in trainer.train_step()) for _ in range(3)]
    trainer.save()
    resumed = Trainer(replace(config, schedule=schedule), base)
    seen += [("structure" in resumed.train_step()) for _ in range(2)]
    assert seen == [True, False, True, False, True]


def test_losses_that_come_less_often_are_logged(run_folder: Path) -> None:
    config, base = read_config(run_folder / "config.toml")
    schedule = replace(config.schedule, steps=50, structure_every=4)
    Trainer(replace(config, schedule=schedule), base).run()
    first = json.loads((run_folder / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["kind"] == "train"
    assert first["structure"] > 0
