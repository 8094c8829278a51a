"""From prepared molecules to results: shared batches, and one outcome for every molecule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from consistent_calc.conformers.generate import ConformerOptions, Samples, choose, embed, refine_samples, relax_samples
from consistent_calc.conformers.input import Failure, MoleculeInput
from consistent_calc.conformers.result import ConformerEnsemble, ConformerResult
from consistent_calc.errors import ConformerError, ConsistentCalcError

if TYPE_CHECKING:
    from consistent_calc.model import ConsistentModel


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
                outcome = embed(entry, options)
                n_atoms += outcome.mol.GetNumAtoms() * outcome.mol.GetNumConformers()
            except ConformerError as error:
                outcome = Failure(error.reason, str(error))
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
            outcome = Failure(outcome.reason, str(outcome))
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
    try:
        if options.denoise:
            refine_samples(model, batch, options)
        relaxations = relax_samples(model, batch, options)
    except ConsistentCalcError as error:
        # One molecule must not take the others with it: find it by running each alone.
        return [error] if len(batch) == 1 else [ensembles(model, [samples], options)[0] for samples in batch]
    level = options.level or model.levels[0]
    outcomes: list[ConformerEnsemble | ConsistentCalcError] = []
    for samples, relaxation in zip(batch, relaxations, strict=True):
        try:
            outcomes.append(choose(samples, relaxation, options, level))
        except ConformerError as error:
            outcomes.append(error)
    return outcomes
