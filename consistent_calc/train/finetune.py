"""Fine-tuning: a trained model learns another level of theory from a few structures, on a CPU in minutes."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.linalg import lstsq
from torch import Tensor

from consistent_calc.data.batching import BatchStream
from consistent_calc.data.dataset import Dataset
from consistent_calc.elements import symbol
from consistent_calc.errors import ConfigurationError, DataError, DivergedError
from consistent_calc.model import ConsistentModel
from consistent_calc.settings import not_negative, positive
from consistent_calc.structures import StructureBatch
from consistent_calc.train.batches import energy_batch
from consistent_calc.train.configuration import Weights
from consistent_calc.train.continuation import extend_model
from consistent_calc.train.evaluation import BATCH
from consistent_calc.train.objective import Objective
from consistent_calc.train.replay import Replay

#: Fraction of the steps in which the learning rate rises.
WARMUP = 0.05


@dataclass(frozen=True)
class FineTuning:
    """Settings of a fine-tuning.

    Attributes:
        steps: updates of the weights.
        atoms: atoms of the new data in a batch, and of the replay.
        learning_rate: at its highest.
        clip_norm: longest gradient.
        replay: whether the model is held to what it knew.
        bootstrap: learn from a random resample of the structures, drawn with replacement: for a member of an ensemble.
        seed: of order and noise.
        weights: of the losses; ``structure`` is that of the replay.
    """

    steps: int = 1000
    atoms: int = 150
    learning_rate: float = 3e-4
    clip_norm: float = 5.0
    replay: bool = True
    bootstrap: bool = False
    seed: int = 0
    weights: Weights = field(default_factory=Weights)

    def __post_init__(self) -> None:
        positive(self, "steps", "atoms", "learning_rate", "clip_norm")
        not_negative(self, "seed")


def add_level(start: ConsistentModel, data: Dataset, rows: np.ndarray, seed: int = 0) -> ConsistentModel:
    """A model that also has a readout for the level of the data: a copy of the default one, on fitted references.

    What its readout says is taken off the energies before the atomic references are fitted, and of all references that
    fit equally well those next to the default level's are taken: a file may hold a single composition. Without energies
    they are the default level's.

    Args:
        start: not modified.
        data: labelled structures; a level that ``start`` has keeps its readout and the references that it has.
        rows: ``[n]``, conformations to fit to.
        seed: of the embeddings of new elements.

    Raises:
        ConfigurationError: the level is the default one, to which fine-tuning holds the model.
        DataError: there are energies, but none with an element that the model does not know.
    """
    if data.level == start.levels[0]:
        raise ConfigurationError(
            f"{data.level} is the default level of the starting model, which fine-tuning must not change. Give the "
            f"level of your labels a name of its own, such as {data.level + ' (mine)'!r}."
        )
    model = copy.deepcopy(extend_model(start, [data], seed))
    known = start.level_elements(data.level) if data.level in start.levels else ()
    model.references[model.level_index(data.level)] = _references(model, data, rows, known).to(model.device)
    return model


def _references(model: ConsistentModel, data: Dataset, rows: np.ndarray, known: Sequence[int]) -> Tensor:
    """Reference energies of the level of the data, float64 ``[n_elements]`` on the CPU, zero for elements without one.

    Args:
        model: with a readout for the level; its references of the level are set to zero.
        data, rows: as in :func:`add_level`, which says how they are found.
        known: atomic numbers whose references of the level are kept.

    Raises:
        DataError: as :func:`add_level`.
    """
    index = model.level_index(data.level)
    free = [model.elements.index(z) for z in sorted(elements_of(data, rows) - set(known))]
    found = model.references[index].cpu().clone()
    # Fitted by extend_model to all structures, those set aside included.
    found[[k for k, z in enumerate(model.elements) if z not in known]] = 0.0
    found[free] = model.references[0].cpu()[free]
    model.references[index] = 0.0  # so that what is said is without them
    labelled = rows if data.energy is None else rows[~np.isnan(data.energy[rows])]
    if data.energy is not None and len(labelled) and free:
        said, counts = [], []
        for k in range(0, len(labelled), BATCH):
            batch = data.batch(labelled[k : k + BATCH])[0]
            said.append(model.predict(batch, level=data.level, forces=False).energy.cpu().numpy())
        for m in data.molecule[labelled]:
            numbers = data.numbers[slice(*_span(data.atom_offset, m))]
            counts.append([int((numbers == z).sum()) for z in model.elements])
        composition = np.array(counts, dtype=float)
        missing = data.energy[labelled] - np.concatenate(said) - composition @ found.numpy()
        found[free] += torch.from_numpy(lstsq(composition[:, free], missing)[0])
    elif not known and not bool(found[free].all()):
        found[:] = 0.0  # nobody knows the zero of a new element: all energies are those of interaction
    if unknown := [symbol(model.elements[k]) for k in free if found[k] == 0 and bool(found.any())]:
        raise DataError(
            f"No energy of a structure with {', '.join(unknown)} is given, so its reference energy cannot be fitted. "
            "Give some, or leave such structures out, or make a level of its own from forces alone."
        )
    return found


def fine_tune_model(
    start: ConsistentModel,
    data: Dataset,
    rows: np.ndarray,
    molecules: Sequence[StructureBatch],
    settings: FineTuning,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> ConsistentModel:
    """Trains all weights on the new level, with replay of the levels that the model knew.

    Charges and dipoles of the data are not learned: the charges of a model belong to all of its levels.

    Args:
        start: not modified.
        data: labelled structures.
        rows: ``[n]``, conformations to learn from.
        molecules: structures of one molecule each, for :class:`consistent_calc.train.replay.Replay`.
        settings: of the training.
        on_step: called with the number of steps done and the losses.

    Returns:
        The tuned model, ready for use, on the device of ``start``.

    Raises:
        ConfigurationError: the level is the default one.
        DivergedError: a gradient is NaN or infinite.
    """
    model = add_level(start, data, rows, settings.seed).train().requires_grad_(True)
    objective = Objective(model, settings.weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    # The references are fitted to all structures: a resample may lack an element.
    learned = np.random.default_rng(settings.seed).choice(rows, len(rows)) if settings.bootstrap else rows
    stream = BatchStream(data.n_atoms[learned], settings.atoms, seed=settings.seed)
    replay = Replay(start, molecules, data, rows, atoms=settings.atoms, seed=settings.seed) if settings.replay else None
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step / settings.steps)
        structures, labels = data.batch(learned[next(stream)])
        parts = [(structures, replace(labels, partial_charges=None, dipole=None))]
        remembered = replay.batch() if replay is not None else None
        if remembered is not None:
            parts.append(remembered)
        optimizer.zero_grad(set_to_none=True)
        losses = objective.energy_losses(energy_batch(parts, model))
        if replay is not None:
            losses["structure"] = replay.structure_loss(model)
        objective.total(losses).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        if not torch.isfinite(norm):
            raise DivergedError(
                f"The gradient became NaN or infinite at step {step + 1}. Lower the learning rate or look for broken "
                "labels."
            )
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, {name: float(value.detach()) for name, value in losses.items()})
    return model.eval().requires_grad_(False)


def hold_out(
    data: Dataset, rows: np.ndarray, fraction: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, str]:
    """Sets structures aside that the training does not see.

    Whole molecules (those of one bucket of the split, which are one skeleton or one formula) if that is possible, else
    single structures. No element is left to those set aside: its reference could not be fitted.

    Args:
        data: all structures.
        rows: ``[n]``, conformations to divide.
        fraction: of the structures that are set aside, at most, and at least one.
        seed: of the choice.

    Returns:
        Conformations to train on, those set aside, and ``molecules`` or ``structures``: what was divided.

    Raises:
        DataError: nothing can be set aside, as every structure has an element that no other one has.
    """
    rng = np.random.default_rng(seed)
    groups = data.bucket[data.molecule[rows]]
    wanted = max(1, round(fraction * len(rows)))
    aside = np.zeros(len(rows), dtype=bool)
    present = elements_of(data, rows)
    for group in rng.permutation(np.unique(groups)):
        more = aside | (groups == group)
        if more.sum() <= wanted and elements_of(data, rows[~more]) == present:
            aside = more
    # Fewer than half of what was asked for: a few large molecules, which do not divide well.
    how = "molecules"
    if aside.sum() < wanted / 2:
        how = "structures"
        aside = _single_structures(data, rows, wanted, rng)
    return rows[~aside], rows[aside], how


def _single_structures(data: Dataset, rows: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """A random choice of at most ``wanted`` rows, bool ``[n]``, without which the others still have all elements."""
    aside = np.zeros(len(rows), dtype=bool)
    _, first, owner = np.unique(data.molecule[rows], return_index=True, return_inverse=True)
    elements = [elements_of(data, rows[[k]]) for k in first]
    present = [elements[m] for m in owner]
    left = Counter(z for each in present for z in each)
    for k in rng.permutation(len(rows)):
        if aside.sum() < wanted and all(left[z] > 1 for z in present[k]):
            aside[k] = True
            left.subtract(present[k])
    if not aside.any():
        raise DataError(
            "No structure can be set aside: each has an element that no other one has. Give more structures of them."
        )
    return aside


def elements_of(data: Dataset, rows: np.ndarray) -> set[int]:
    """Atomic numbers in these conformations ``[n]``."""
    return {int(z) for m in np.unique(data.molecule[rows]) for z in data.numbers[slice(*_span(data.atom_offset, m))]}


def _schedule(progress: float) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to zero."""
    return min(1.0, (progress + 1e-3) / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))


def _span(offset: np.ndarray, item: int) -> tuple[int, int]:
    return int(offset[item]), int(offset[item + 1])
