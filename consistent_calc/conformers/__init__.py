"""Conformers of molecules: generated, relaxed and ranked by one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from consistent_calc.conformers.generate import ConformerOptions
from consistent_calc.conformers.input import Failure, MoleculeInput, read_molecules
from consistent_calc.conformers.job import JobReport, run_conformer_job
from consistent_calc.conformers.result import ConformerEnsemble, ConformerResult
from consistent_calc.conformers.stream import ensembles, start, stream
from consistent_calc.errors import ConsistentCalcError, MoleculeInputError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from consistent_calc.model import ConsistentModel

__all__ = [
    "ConformerEnsemble",
    "ConformerOptions",
    "ConformerResult",
    "Failure",
    "JobReport",
    "MoleculeInput",
    "generate_conformers",
    "generate_many",
    "read_molecules",
    "run_conformer_job",
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
    n_steps: int = 3,
    guidance: int = 8,
    embed_timeout: int = 60,
    max_time: float | None = None,
    max_atoms_per_batch: int = 4096,
    method: str = "seeds",
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
        rmsd_threshold: RMSD, without hydrogens on carbon, below which two conformers of equal energy are the same,
            Angstrom.
        fmax: force threshold of the relaxation, eV/Angstrom.
        max_steps: of the relaxation.
        denoise: whether the structure head refines the ETKDG seeds before the relaxation.
        sigma_start: noise level at which the refinement starts, Angstrom; above 0.4 stereo centres begin to flip.
        n_steps: of the refinement.
        guidance: steps along the model's forces at the end of the refinement, or of the sampling from noise; if there
            are any, more seeds are refined than relaxed; those that seem to lead to the same minimum are refined once,
            and those lowest in energy go on.
        embed_timeout: seconds ETKDG may take for each sample.
        max_time: seconds that the seeds of a molecule, or its samples from noise, may take and, again, its relaxation;
            molecules that share a batch share their time. What there is by then is the result; conformers that are not
            relaxed to ``fmax`` say so.
        max_atoms_per_batch: bound on the memory of the relaxation.
        method: ``"seeds"``: ETKDG geometries, brought to minima of MMFF94s where it has parameters, and refined (from
            noise, where ETKDG finds none); ``"noise"``: pure noise, in many steps; ``"denoising"``: pure noise, in a
            single step (the last two need no ETKDG, and a model trained at high noise).

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
        guidance=guidance,
        embed_timeout=embed_timeout,
        max_time=max_time,
        max_atoms_per_batch=max_atoms_per_batch,
        method=method,
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
    n_steps: int = 3,
    guidance: int = 8,
    embed_timeout: int = 60,
    max_time: float | None = None,
    max_atoms_per_batch: int = 4096,
    method: str = "seeds",
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
        guidance=guidance,
        embed_timeout=embed_timeout,
        max_time=max_time,
        max_atoms_per_batch=max_atoms_per_batch,
        method=method,
        enumerate_stereo=enumerate_stereo,
    )
    chosen = _model(model, device, level)
    entries = read_molecules(sources, elements=chosen.level_elements(level), enumerate_stereo=enumerate_stereo)
    return stream(chosen, entries, options)


def _model(model: ConsistentModel | None, device: str, level: str | None) -> ConsistentModel:
    """The given or the shipped model, which must know the level: that error concerns the job, not a molecule."""
    if model is None:
        from consistent_calc.checkpoint import load_model

        model = load_model(device=device)
    model.level_index(level)
    return model


def _single(model: ConsistentModel, source: str | Path | Mol, options: ConformerOptions) -> ConformerEnsemble:
    """The ensemble of the only molecule of a source; whatever goes wrong is raised."""
    entries = read_molecules(source, elements=model.level_elements(options.level))
    entry = next(entries, None)
    if entry is None or next(entries, None) is not None:
        how_many = "no molecule" if entry is None else "several molecules"
        raise MoleculeInputError(f"The source holds {how_many}; use generate_many for any number.")
    if entry.failure is not None:
        raise MoleculeInputError(entry.failure.message, entry.failure.reason)
    (outcome,) = ensembles(model, [start(entry, options)], options)
    if isinstance(outcome, ConsistentCalcError):
        raise outcome
    return outcome
