"""Conformers of molecules: generated, relaxed and ranked by one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from consistent_calc.conformers.generate import ConformerOptions, Samples, choose, embed, refine_samples, relax_samples
from consistent_calc.conformers.input import Failure, MoleculeInput, read_molecules
from consistent_calc.conformers.result import ConformerEnsemble, ConformerResult
from consistent_calc.errors import ConformerError, ConsistentCalcError, MoleculeInputError, UnknownLevelError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from consistent_calc.model import ConsistentModel

__all__ = [
    "ConformerEnsemble",
    "ConformerOptions",
    "ConformerResult",
    "Failure",
    "MoleculeInput",
    "generate_conformers",
    "generate_many",
    "read_molecules",
]


def generate_conformers(
    source: str | Path | Mol,
    n: int = 20,
    *,
    seed: int = 0,
    level: str | None = None,
    model: ConsistentModel | None = None,
    device: str = "cpu",
    window: float | None = None,
    temperature: float = 298.15,
    rmsd_threshold: float = 0.125,
    fmax: float = 0.01,
    max_steps: int = 500,
    denoise: bool = True,
    sigma_start: float = 0.3,
    n_steps: int = 8,
    embed_timeout: int = 60,
    max_atoms_per_batch: int = 4096,
) -> ConformerEnsemble:
    """The ``n`` lowest distinct conformers that were found of one molecule, relaxed and ranked.

    Args:
        source: a SMILES string, an RDKit molecule, or a file with one molecule.
        n: largest number of conformers; fewer come back when the samples hold fewer minima.
        seed: of all random numbers.
        level: level of theory, None for the model's default.
        model: by default the shipped one, loaded onto ``device``.
        device: of the shipped model.
        window: conformers higher above the lowest (kcal/mol) are dropped; None keeps all.
        temperature: of the Boltzmann weights, Kelvin.
        rmsd_threshold: heavy-atom RMSD below which two conformers of equal energy are the same, Angstrom.
        fmax: force threshold of the relaxation, eV/Angstrom.
        max_steps: of the relaxation.
        denoise: whether the structure head refines the ETKDG seeds before the relaxation.
        sigma_start: noise level at which the refinement starts, Angstrom; above 0.4 stereo centres begin to flip.
        n_steps: of the refinement.
        embed_timeout: seconds ETKDG may take for each sample.
        max_atoms_per_batch: bound on the memory of the relaxation.

    Raises:
        MoleculeInputError: the molecule cannot be used; ``error.reason`` tells why.
        ConformerError: no acceptable conformer was found; ``error.reason`` tells which step failed.
    """
    options = ConformerOptions(
        n=n,
        seed=seed,
        level=level,
        window=window,
        temperature=temperature,
        rmsd_threshold=rmsd_threshold,
        fmax=fmax,
        max_steps=max_steps,
        denoise=denoise,
        sigma_start=sigma_start,
        n_steps=n_steps,
        embed_timeout=embed_timeout,
        max_atoms_per_batch=max_atoms_per_batch,
    )
    return _single(_model(model, device, level), source, options)


def generate_many(
    sources: str | Path | Mol | Iterable[str | Path | Mol],
    n: int = 20,
    *,
    seed: int = 0,
    level: str | None = None,
    model: ConsistentModel | None = None,
    device: str = "cpu",
    window: float | None = None,
    temperature: float = 298.15,
    rmsd_threshold: float = 0.125,
    fmax: float = 0.01,
    max_steps: int = 500,
    denoise: bool = True,
    sigma_start: float = 0.3,
    n_steps: int = 8,
    embed_timeout: int = 60,
    max_atoms_per_batch: int = 4096,
    enumerate_stereo: bool = False,
) -> Iterator[ConformerResult]:
    """One result an input (or stereoisomer), in order, as they come; a bad input gives a result with a typed failure.

    Small molecules share denoising and relaxation batches; a molecule's result does not depend on its companions
    (up to rounding).

    Args:
        sources: see :func:`consistent_calc.conformers.read_molecules`.
        n: and the others, see :func:`generate_conformers`.
        enumerate_stereo: one result for every stereoisomer of a molecule with unspecified centres or double bonds.

    Raises:
        UnknownLevelError: the model has no readout for ``level``.
    """
    options = ConformerOptions(
        n=n,
        seed=seed,
        level=level,
        window=window,
        temperature=temperature,
        rmsd_threshold=rmsd_threshold,
        fmax=fmax,
        max_steps=max_steps,
        denoise=denoise,
        sigma_start=sigma_start,
        n_steps=n_steps,
        embed_timeout=embed_timeout,
        max_atoms_per_batch=max_atoms_per_batch,
        enumerate_stereo=enumerate_stereo,
    )
    return _stream(_model(model, device, level), sources, options)


def _model(model: ConsistentModel | None, device: str, level: str | None) -> ConsistentModel:
    """The given or the shipped model, which must know the level: that error concerns the job, not a molecule."""
    if model is None:
        from consistent_calc.checkpoint import load_model

        model = load_model(device=device)
    if level is not None and level not in model.levels:
        raise UnknownLevelError(f"No readout for the level {level!r}; this model has: {', '.join(model.levels)}.")
    return model


def _single(model: ConsistentModel, source: str | Path | Mol, options: ConformerOptions) -> ConformerEnsemble:
    """The ensemble of the only molecule of a source; whatever goes wrong is raised."""
    entries = read_molecules(source, elements=model.elements)
    entry = next(entries, None)
    if entry is None or next(entries, None) is not None:
        how_many = "no molecule" if entry is None else "several molecules"
        raise MoleculeInputError(f"The source holds {how_many}; use generate_many for any number.")
    if entry.failure is not None:
        error = MoleculeInputError(entry.failure.message)
        error.reason = entry.failure.reason
        raise error
    (outcome,) = _ensembles(model, [embed(entry, options)], options)
    if isinstance(outcome, ConsistentCalcError):
        raise outcome
    return outcome


def _stream(
    model: ConsistentModel, sources: str | Path | Mol | Iterable[str | Path | Mol], options: ConformerOptions
) -> Iterator[ConformerResult]:
    """Collects molecules until they fill a batch, then yields the results of all of them in order."""
    waiting: list[tuple[MoleculeInput, Samples | Failure]] = []
    n_atoms = 0
    for entry in read_molecules(sources, elements=model.elements, enumerate_stereo=options.enumerate_stereo):
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
    outcomes = iter(_ensembles(model, batch, options))
    for entry, waited in waiting:
        outcome = waited if isinstance(waited, Failure) else next(outcomes)
        if isinstance(outcome, ConsistentCalcError):
            outcome = Failure(outcome.reason, str(outcome))
        if isinstance(outcome, Failure):
            yield ConformerResult(entry.id, entry.name, entry.smiles, failure=outcome)
        else:
            yield ConformerResult(entry.id, entry.name, entry.smiles, ensemble=outcome)


def _ensembles(
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
        return [error] if len(batch) == 1 else [_ensembles(model, [samples], options)[0] for samples in batch]
    level = options.level or model.levels[0]
    outcomes: list[ConformerEnsemble | ConsistentCalcError] = []
    for samples, relaxation in zip(batch, relaxations, strict=True):
        try:
            outcomes.append(choose(samples, relaxation, options, level))
        except ConformerError as error:
            outcomes.append(error)
    return outcomes
