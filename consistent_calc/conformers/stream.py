"""From prepared molecules to results: shared batches, and one outcome for every molecule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from consistent_calc.conformers.generate import (
    ConformerOptions,
    Samples,
    choose,
    embed,
    relax_samples,
    without_seeds,
)
from consistent_calc.conformers.input import Failure, MoleculeInput
from consistent_calc.conformers.result import ConformerEnsemble, ConformerResult
from consistent_calc.conformers.sample import draw_samples
from consistent_calc.errors import ConformerError, ConsistentCalcError

if TYPE_CHECKING:
    from consistent_calc.model import ConsistentModel

#: Atoms of a batch that is not divided further when memory runs out.
SMALLEST_BATCH = 64


def stream(
    model: ConsistentModel, entries: Iterable[MoleculeInput], options: ConformerOptions
) -> Iterator[ConformerResult]:
    """One result an entry, in order; entries are collected until they fill a batch."""
    waiting: list[tuple[MoleculeInput, Samples | Failure]] = []
    n_atoms = 0
    for entry in entries:
        outcome: Samples | Failure
        if entry.failure is not None:
            outcome = entry.failure
        else:
            try:
                outcome = start(entry, options)
                n_atoms += outcome.mol.GetNumAtoms() * outcome.mol.GetNumConformers()
            except Exception as error:
                outcome = _failure(_typed(error))
        waiting.append((entry, outcome))
        if n_atoms >= options.max_atoms_per_batch or n_atoms == 0:
            yield from _flush(model, waiting, options)
            waiting, n_atoms = [], 0
    yield from _flush(model, waiting, options)


def _flush(
    model: ConsistentModel, waiting: Sequence[tuple[MoleculeInput, Samples | Failure]], options: ConformerOptions
) -> Iterator[ConformerResult]:
    batch = [outcome for _, outcome in waiting if isinstance(outcome, Samples)]
    outcomes = iter(ensembles(model, batch, options))
    for entry, waited in waiting:
        outcome = waited if isinstance(waited, Failure) else next(outcomes)
        if isinstance(outcome, ConsistentCalcError):
            outcome = _failure(outcome)
        if isinstance(outcome, Failure):
            yield ConformerResult(entry.id, entry.name, entry.smiles, failure=outcome)
        else:
            yield ConformerResult(entry.id, entry.name, entry.smiles, ensemble=outcome)


def ensembles(
    model: ConsistentModel, batch: Sequence[Samples], options: ConformerOptions
) -> list[ConformerEnsemble | ConsistentCalcError]:
    """Denoises and relaxes all molecules together; an ensemble or an error for each."""
    if not batch:
        return []
    untouched = [samples.copy() for samples in batch]
    try:
        draw_samples(model, batch, options)
        alive = [samples for samples in batch if samples.mol.GetNumConformers() > 0]
        relaxed = relax_samples(model, alive, options) if alive else []
        relaxations = dict(zip(map(id, alive), relaxed, strict=True))
    except torch.OutOfMemoryError as failed:
        if len(batch) == 1 and options.max_atoms_per_batch <= SMALLEST_BATCH:
            return [
                ConformerError(f"The molecule is too large for the memory of the device: {failed}", "out_of_memory")
            ]
        # Smaller batches, alone and in parts: the results are the same.
        smaller = replace(options, max_atoms_per_batch=max(options.max_atoms_per_batch // 4, SMALLEST_BATCH))
        return [ensembles(model, [samples], smaller)[0] for samples in untouched]
    except Exception as error:
        if len(batch) == 1:
            return [_typed(error)]
        # One molecule must not take the others with it: find it by running each alone.
        return [ensembles(model, [samples], options)[0] for samples in untouched]
    outcomes: list[ConformerEnsemble | ConsistentCalcError] = []
    for samples in batch:
        try:
            if id(samples) not in relaxations:
                raise sampling_error(samples)
            outcomes.append(choose(model, samples, relaxations[id(samples)], options))
        except Exception as error:
            outcomes.append(_typed(error))
    return outcomes


def _failure(error: ConsistentCalcError) -> Failure:
    return Failure(error.reason, str(error))


def _typed(error: Exception) -> ConsistentCalcError:
    """An error of one molecule: whatever no step foresaw becomes one as well, as it must not end the batch."""
    if isinstance(error, ConsistentCalcError):
        return error
    typed = ConformerError(f"Unexpected {type(error).__name__}: {error}", "unexpected_error")
    typed.__cause__ = error
    return typed


def start(entry: MoleculeInput, options: ConformerOptions) -> Samples:
    """The samples of a molecule before the structure head has seen them: seeds or, where ETKDG finds none, noise."""
    if options.method != "seeds":
        return without_seeds(entry, options)
    try:
        return embed(entry, options)
    except ConformerError as error:
        if error.reason == "embedding_timeout" and options.max_time is not None:
            raise  # noise would take more time than there is
        samples = without_seeds(entry, options)
        samples.no_seeds = error
        samples.notes.append("made from noise, because ETKDG found no geometry")
        return samples


def sampling_error(samples: Samples) -> ConformerError:
    """Why a molecule has no samples at all."""
    tally = ", ".join(f"{name} {n}" for name, n in samples.counts.items() if name.startswith("sampling_"))
    if not tally:
        return ConformerError("There was no time for any sample from noise; raise max_time.", "sampling_timeout")
    message = f"No sample from noise became the molecule ({tally})."
    if samples.no_seeds is not None:
        return ConformerError(f"{samples.no_seeds} {message}", samples.no_seeds.reason)
    return ConformerError(f"{message} Try more samples (n), or the method seeds.", "sampling_failed")
