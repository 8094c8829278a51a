"""The training loop: multi-task, resumable, on one device or several.

Started under ``torchrun``, every process takes its share of the batches and gradients are averaged.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import threading
import time
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from consistent_calc.checkpoint import find_card, load_model, save_model, to_device
from consistent_calc.data.dataset import Dataset
from consistent_calc.elements import symbol
from consistent_calc.errors import ConfigurationError, DivergedError
from consistent_calc.files import replacing
from consistent_calc.model import ConsistentModel, ModelConfig
from consistent_calc.train.batches import EnergyBatch
from consistent_calc.train.configuration import TrainingConfig
from consistent_calc.train.continuation import extend_model
from consistent_calc.train.cuda_graph import CapturedEnergyTask, Size
from consistent_calc.train.evaluation import evaluate_energy, evaluate_structure
from consistent_calc.train.feed import Feed
from consistent_calc.train.objective import Objective
from consistent_calc.train.prefetch import Prefetcher
from consistent_calc.train.references import fit_references

#: Steps in a row without finite gradients after which a run ends.
MAX_SKIPPED = 50
#: On a GPU the energy task is captured after so many steps, with room for the largest of their batches.
CAPTURE_AFTER = 20


class Trainer:
    """Owns everything that changes during a run, and can write and read it.

    Args:
        config: the run.
        base: folder that relative paths start from.

    Raises:
        ConfigurationError, DataError: nothing to train on.
    """

    def __init__(self, config: TrainingConfig, base: Path) -> None:
        self.config = config
        self.rank, self.world_size = _join_process_group(config.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.output = base / config.output
        self.output.mkdir(parents=True, exist_ok=True)

        self.feed = Feed(config, base, self.rank, self.world_size)
        self.model = to_device(_new_model(config, base, self.feed.energy), config.device)
        _check_elements(self.model, self.feed)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.schedule.ema_decay))
        # The averaged weights are also the frozen energy of the consistency losses.
        self.average.requires_grad_(False)
        self.objective = Objective(
            self.model, config.weights, config.consistency, self._averaged, compile=config.compile
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.schedule.learning_rate,
            weight_decay=config.schedule.weight_decay,
            betas=(0.9, 0.98),
            fused=self.model.device.type == "cuda",
        )
        self._captured: CapturedEnergyTask | None = None
        self._sizes: list[Size] = []
        self.step = 0
        self.seconds = 0.0
        self.stop_requested = False
        self._interrupted = False
        self._skipped = 0
        if self._state_path.exists():
            self._load_state()
        self._position = self.feed.position()
        self._steps = Prefetcher(lambda: self.feed.next(self.model), self.model.device)

    # ------------------------------------------------------------------ one step

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, by steps or by hours, whichever is larger."""
        schedule = self.config.schedule
        return min(1.0, max(self.step / schedule.steps, self.seconds / 3600 / schedule.hours))

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine of the progress down to a hundredth."""
        schedule = self.config.schedule
        warmup = min(1.0, (self.step + 1) / max(schedule.warmup_steps, 1))
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress))
        return schedule.learning_rate * warmup * cosine

    def train_step(self) -> dict[str, float]:
        """One update of the weights; returns the losses."""
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        data = self._steps.take()
        # The tasks are differentiated one after the other: half the memory, the same gradient.
        losses = self._energy_backward(data.energy)
        if data.structure is not None:
            seed = hash((self.config.seed, self.rank, self.step)) % 2**63
            losses |= self._backward(self.objective.structure_losses(data.structure, seed))
        self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.schedule.clip_norm)
        # All numbers are asked for at once: each question waits for the device.
        *values, length = torch.stack([*losses.values(), norm]).tolist()
        if math.isfinite(length):
            self.optimizer.step()
            self.average.update_parameters(self.model)
            self._skipped = 0
        else:
            self._skip()
        self.step += 1
        self._position = data.position
        return dict(zip(losses, values, strict=True)) | {"learning_rate": rate, "gradient_norm": length}

    def _skip(self) -> None:
        """A step without finite gradients is left out; many in a row are no accident."""
        self._skipped += 1
        if self._skipped == MAX_SKIPPED:
            raise DivergedError(
                f"The gradients of {MAX_SKIPPED} steps in a row were NaN or infinite, the last at step {self.step}. "
                f"Lower the learning rate or look for broken labels; the state in {self.output} is from before."
            )

    def _backward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        self.objective.total(losses).backward()
        return {name: value.detach() for name, value in losses.items()}

    def _energy_backward(self, batch: EnergyBatch) -> dict[str, Tensor]:
        """Losses of the energy task; gradients are set. With ``compile`` on a GPU by a CUDA graph, after some steps."""
        if self._captured is None and self.config.compile and self.model.device.type == "cuda":
            self._sizes.append(Size.of(batch))
            if len(self._sizes) == CAPTURE_AFTER:
                self._steps.wait()  # nothing else may use the GPU
                size = reduce(Size.holding, self._sizes).with_room()
                self._captured = CapturedEnergyTask(self.objective, batch, size)
        if self._captured is not None and self._captured.holds(batch):
            return self._captured.backward(batch)
        return self._backward(self.objective.energy_losses(batch))

    def _average_gradients(self) -> None:
        if self.world_size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.model.parameters()]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        for p, g in zip(self.model.parameters(), flat.split([g.numel() for g in gradients]), strict=True):
            p.grad = g.view_as(p)

    # ------------------------------------------------------------------ the loop

    def run(self, on_step: Any = None) -> Path:
        """Trains to the end of the schedule, from where the last run of this folder stopped.

        SIGINT and SIGTERM end the run after the current step, with everything saved (a signal to any of several
        processes ends all of them; off the main thread, where Python allows no handlers, set ``stop_requested``).

        Args:
            on_step: called with the trainer and the losses after each step (progress display).

        Returns:
            Path of the card of the exported model (averaged weights).
        """
        on_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if on_main else ()
        previous = {s: signal.signal(s, self._request_stop) for s in signals}
        schedule = self.config.schedule
        last = saved = validated = time.monotonic()
        window: list[dict[str, float]] = []
        try:
            while self.progress < 1 and not self.stop_requested:
                window.append(self.train_step())
                now = time.monotonic()
                self.seconds += self._agree(now - last)
                last = now
                if on_step is not None:
                    on_step(self, window[-1])
                if len(window) == 50:
                    names = dict.fromkeys(name for losses in window for name in losses)
                    self._log("train", {k: float(np.mean([w[k] for w in window if k in w])) for k in names})
                    window = []
                if self._agree(now - saved) > 60 * schedule.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
                if self._agree(now - validated) > 60 * schedule.validation_minutes:
                    self._log("validation", self.validate())
                    self.export()
                    validated = time.monotonic()
            self.save()
            self._log("validation", self.validate())
            return self.export()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @property
    def _averaged(self) -> ConsistentModel:
        return cast(ConsistentModel, self.average.module)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        # Not stop_requested itself: ranks that see it at different moments would wait for each other forever.
        self._interrupted = True

    def _agree(self, seconds: float) -> float:
        """The clock of rank 0 and the stop requests of all, so that all ranks take the same decisions."""
        stop = self.stop_requested or self._interrupted
        if self.world_size > 1:
            both = torch.tensor([seconds if self.rank == 0 else 0.0, float(stop)], device=self.model.device)
            dist.all_reduce(both)
            seconds, stop = float(both[0]), bool(both[1] > 0)
        self.stop_requested = stop
        return seconds

    def validate(self) -> dict[str, float]:
        """Errors of the averaged weights on a fixed sample of the validation side."""
        limit = self.config.schedule.validation_structures
        model = self._averaged
        out: dict[str, float] = {}
        for data, source in zip(self.feed.validation_energy, self.config.energy, strict=True):
            if len(data) == 0:
                continue
            name = Path(source.store).stem
            out |= {f"{name}/{k}": v for k, v in evaluate_energy(model, data, limit=limit).summary().items()}
        for structures, source in zip(self.feed.validation_structure, self.config.structure, strict=True):
            if len(structures.indices) == 0:
                continue
            errors = evaluate_structure(model, structures.data, structures.indices[:limit])
            out |= {f"{Path(source.store).stem}/{k}": v for k, v in errors.items()}
        return out

    def _log(self, kind: str, values: dict[str, float]) -> None:
        if self.rank == 0:
            line = {"kind": kind, "step": self.step, "hours": round(self.seconds / 3600, 4), **values}
            with (self.output / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    # ------------------------------------------------------------------ state

    @property
    def _state_path(self) -> Path:
        return self.output / "state.pt"

    def save(self) -> None:
        """Writes the state of the run, replacing the last one in one step."""
        if self.rank != 0:
            return
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self._position,
            "step": self.step,
            "seconds": self.seconds,
        }
        with replacing(self._state_path) as new:
            torch.save(state, new)

    def _load_state(self) -> None:
        damaged = f"{self._state_path} is damaged; remove it to start anew"
        try:
            state = torch.load(self._state_path, map_location=self.config.device, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ConfigurationError(f"{damaged}: {error}") from None
        if not isinstance(state, dict) or not {"model", "average", "optimizer", "step", "seconds"} <= state.keys():
            raise ConfigurationError(f"{damaged}: it is no state of a run.")
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ConfigurationError(f"{self.output} holds a run of another architecture: {error}") from None
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.feed.go_to(state, state["step"])
        self.step, self.seconds = state["step"], state["seconds"]

    def export(self) -> Path:
        """Writes the averaged weights as a checkpoint for use."""
        record = {
            "configuration": asdict(self.config),
            "steps": self.step,
            "hours": round(self.seconds / 3600, 3),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "data": [
                {"store": Path(source.store).stem, "level": data.level, "structures": len(data)}
                for source, data in zip(self.config.energy, self.feed.energy, strict=True)
            ],
        }
        return save_model(self._averaged, self.output / "model", record) if self.rank == 0 else self.output


def _check_elements(model: ConsistentModel, feed: Feed) -> None:
    """Raises ConfigurationError for elements that only the validation side has: the run would end at them."""
    structures = [equilibria.data for equilibria in (*feed.structure, *feed.validation_structure)]
    present = set[int]().union(*(d.elements for d in (*feed.validation_energy, *structures)))
    if unknown := sorted(present - set(model.elements)):
        raise ConfigurationError(
            f"Data of this run hold {', '.join(map(symbol, unknown))}, which no training molecule of the energy task "
            "has: the model would not know what to make of them. Add such molecules, or take these away."
        )


def _new_model(config: TrainingConfig, base: Path, datasets: list[Dataset]) -> ConsistentModel:
    """The model to train: that of an earlier stage, or an untrained one with fitted atomic references."""
    prior_level = config.noise.learned_prior_level
    if config.start is not None:
        model = extend_model(load_model(find_card(config.start, base)), datasets, config.seed, prior_level)
        return model.train().requires_grad_(True)
    elements = tuple(sorted(set[int]().union(*(d.elements for d in datasets))))
    levels = tuple(dict.fromkeys(d.level for d in datasets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = ConsistentModel(
            ModelConfig(elements=elements, levels=levels, prior_level=prior_level, **asdict(config.model))
        )
    model.references.copy_(fit_references(datasets, levels, elements))
    return model


def _join_process_group(device: str) -> tuple[int, int]:
    """Rank and world size, (0, 1) outside torchrun."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return dist.get_rank(), dist.get_world_size()
