"""What a run is fed with: the data of its two tasks, in a resumable order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from consistent_calc.data.batching import BatchStream
from consistent_calc.data.dataset import Dataset
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store
from consistent_calc.errors import ConfigurationError
from consistent_calc.model import ConsistentModel
from consistent_calc.structures import StructureBatch
from consistent_calc.train.batches import EnergyBatch, NoisyBatch, draw_noise, energy_batch, noisy_batch
from consistent_calc.train.configuration import TrainingConfig


@dataclass(frozen=True, eq=False)
class StepData:
    """The data of one step.

    Attributes:
        energy, structure: batches of the two tasks; None in a step without the structure task.
        position: state of the feed behind these batches.
    """

    energy: EnergyBatch
    structure: NoisyBatch | None
    position: dict[str, Any]


class Equilibria:
    """The equilibrium structures of a data set that have a molecular graph."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        has_graph = np.diff(data.bond_offset) > 0
        self.indices = np.flatnonzero(data.equilibrium & has_graph[data.molecule])
        self.n_atoms = data.n_atoms[self.indices]

    def batch(self, positions: np.ndarray) -> StructureBatch:
        """Structures with their graphs; ``positions`` index into :attr:`indices`."""
        return self.data.batch(self.indices[positions], with_graph=True)[0]


class Feed:
    """Data sets in memory, the order of their batches, and the noise of the structures.

    Args:
        config: names the stores.
        base: folder that relative paths start from.
        rank, world_size: which share of the batches this process takes.

    Attributes:
        energy, structure: training data of each task, one entry a store.
        validation_energy, validation_structure: the same for the validation side.

    Raises:
        ConfigurationError, DataError: nothing to train on.
    """

    def __init__(self, config: TrainingConfig, base: Path, rank: int, world_size: int) -> None:
        self._config, self._rank = config, rank

        @cache  # both tasks may learn from one store, which is read and held once
        def read(store: str, side: Split) -> Dataset:
            return Store(base / store).read(side)

        self.energy = [read(d.store, Split.TRAIN) for d in config.energy]
        self.structure = [Equilibria(read(d.store, Split.TRAIN)) for d in config.structure]
        self.validation_energy = [read(d.store, Split.VALIDATION) for d in config.energy]
        self.validation_structure = [Equilibria(read(d.store, Split.VALIDATION)) for d in config.structure]

        def stream(n_atoms: np.ndarray, atoms: int) -> BatchStream:
            return BatchStream(n_atoms, atoms, seed=config.seed, rank=rank, world_size=world_size)

        self._energy_streams = [stream(d.n_atoms, c.atoms) for d, c in zip(self.energy, config.energy, strict=True)]
        self._structure_streams = [
            stream(d.n_atoms, c.atoms) for d, c in zip(self.structure, config.structure, strict=True)
        ]
        self._noise = torch.Generator().manual_seed(config.seed + 7919 * rank)
        self._step = 0

    def next(self, model: ConsistentModel) -> StepData:
        """The batches of the next step, on the device of the model; its weights are not touched."""
        energy = self._energy_batch(model)
        with_structure = self.structure and self._step % self._config.schedule.structure_every == 0
        structure = self._noisy_batch(model) if with_structure else None
        self._step += 1
        return StepData(energy, structure, self.position())

    def _energy_batch(self, model: ConsistentModel) -> EnergyBatch:
        parts = []
        for data, source, stream in zip(self.energy, self._config.energy, self._energy_streams, strict=True):
            structures, labels = data.batch(next(stream))
            parts.append((structures, labels if source.forces else replace(labels, forces=None)))
        return energy_batch(parts, model)

    def _noisy_batch(self, model: ConsistentModel) -> NoisyBatch:
        parts = [d.batch(next(s)) for d, s in zip(self.structure, self._structure_streams, strict=True)]
        clean = StructureBatch.concatenate(parts)
        sigma, noise = draw_noise(clean, self._config.noise, self._noise)
        clean = clean.to(model.device, model.dtype)
        return noisy_batch(clean, sigma.to(clean.positions), noise.to(clean.positions), model)

    # ------------------------------------------------------------------ state

    def position(self) -> dict[str, Any]:
        """Where the data stand, for :meth:`go_to`."""
        return {
            "energy_streams": [s.state_dict() for s in self._energy_streams],
            "structure_streams": [s.state_dict() for s in self._structure_streams],
            "noise": self._noise.get_state(),
        }

    def go_to(self, position: dict[str, Any], step: int) -> None:
        """Continues from a position taken on rank 0 before this step.

        Raises:
            ConfigurationError: the position is that of more stores.
            DataError: it is that of other data.
        """
        for streams, states in (
            (self._energy_streams, position["energy_streams"]),
            (self._structure_streams, position["structure_streams"]),
        ):
            if len(states) > len(streams):
                raise ConfigurationError(f"The run was trained on {len(states)} stores of a task, not fewer.")
            # Stores that were added to the end of the list since then start from their beginning.
            for stream, saved in zip(streams, states, strict=False):
                stream.load_state_dict(saved)
        self._step = step
        if self._rank == 0:
            self._noise.set_state(position["noise"].cpu())
        else:  # the position holds the generator of rank 0 only; the others must not repeat its numbers
            self._noise.manual_seed(hash((self._config.seed, self._rank, step)))
