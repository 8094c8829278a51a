"""From molecules to conformers: seeds, relaxation, checks, deduplication and ranking (denoising: ``sample``).

Every molecule's random numbers derive from its canonical SMILES and the seed alone, so that its result does not depend
on what else is in the batch.
"""

from __future__ import annotations

import copy
import hashlib
import math
import operator
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from torch import Tensor

from consistent_calc.agreement import score_force_cosines
from consistent_calc.conformers.deduplicate import best_rmsd, different_basins, heavy_atoms, unique_conformers
from consistent_calc.conformers.input import MoleculeInput
from consistent_calc.conformers.rank import boltzmann_weights, relative_energies
from consistent_calc.conformers.result import ConformerEnsemble, conformer_positions
from consistent_calc.conformers.stereo import GeometryCheck, perceived_smiles
from consistent_calc.conformers.stereoisomers import CUMULENE
from consistent_calc.errors import ConfigurationError, ConformerError
from consistent_calc.relaxation import Relaxation, relax
from consistent_calc.settings import not_negative, positive
from consistent_calc.structures import StructureBatch
from consistent_calc.units import KCAL_PER_MOL

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from consistent_calc.model import ConsistentModel

#: Samples for each conformer asked for, and at least so many more: some relax into the same minimum.
OVERSAMPLING = 1.5
MORE = 4
#: Seeds that are made and refined for each sample; those that are lowest in energy after a few steps go on.
CANDIDATES = 3
#: Where samples come from: ETKDG seeds that are refined, or noise, in many steps or in one.
METHODS = ("seeds", "noise", "denoising")
#: One group of seeds of so many may have cis amides.
FREE_AMIDES = 3
#: Iterations of MMFF94s for a seed.
SETTLING = 1000
#: Seeds that are made together. If the first ones all fail, the others are not tried.
GROUP = 4


@dataclass(frozen=True)
class ConformerOptions:
    """What to generate and how; see :func:`consistent_calc.generate_conformers` for each entry."""

    n: int = 20
    seed: int = 0
    level: str | None = None
    window: float | None = None
    temperature: float = 298.15
    rmsd_threshold: float = 0.125
    fmax: float = 0.01
    max_steps: int = 500
    denoise: bool = True
    sigma_start: float = 0.3
    n_steps: int = 3
    guidance: int = 8
    embed_timeout: int = 60
    max_time: float | None = None
    max_atoms_per_batch: int = 4096
    enumerate_stereo: bool = False
    method: str = "seeds"

    def __post_init__(self) -> None:
        for name in ("n", "seed", "max_steps", "n_steps", "guidance", "embed_timeout", "max_atoms_per_batch"):
            value = getattr(self, name)
            if not hasattr(value, "__index__") or isinstance(value, bool):
                raise ConfigurationError(f"{name} must be an integer, got {value!r}.")
            object.__setattr__(self, name, operator.index(value))  # RDKit takes no integers of NumPy
        if self.method not in METHODS:
            raise ConfigurationError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}.")
        positive(self, "n", "temperature", "fmax", "max_steps", "sigma_start", "n_steps", "embed_timeout", "max_time")
        positive(self, "max_atoms_per_batch")
        not_negative(self, "guidance", "rmsd_threshold", "window")


@dataclass(eq=False)
class Samples:
    """One molecule on its way through the steps; ``mol`` holds the current geometries as conformers ``0 .. k-1``.

    ``from_noise``: the geometries are still to come from the structure head, if ``no_seeds`` is an error because ETKDG
    has found none.
    """

    input: MoleculeInput
    mol: Mol
    counts: Counter[str]
    notes: list[str]
    from_noise: bool = False
    no_seeds: ConformerError | None = None
    check: GeometryCheck = field(init=False)

    def __post_init__(self) -> None:
        self.check = GeometryCheck(self.mol)

    def copy(self) -> Samples:
        """Independent geometries, counts and notes."""
        out = copy.copy(self)  # with the same check, which knows the molecule only
        out.mol, out.counts, out.notes = Chem.Mol(self.mol), Counter(self.counts), list(self.notes)
        return out


def derived_seed(seed: int, smiles: str, purpose: str) -> int:
    """A seed below 2^31 that depends on its arguments only, on any machine."""
    digest = hashlib.sha256(f"{seed}|{smiles}|{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


# ---------------------------------------------------------------------- 1. seeds


def embed(entry: MoleculeInput, options: ConformerOptions) -> Samples:
    """ETKDGv3 seeds, brought to minima of MMFF94s; from random coordinates if distance geometry finds none.

    Raises:
        ConformerError: ``embedding_failed`` with RDKit's own counts, ``embedding_timeout``.
    """
    if entry.mol is None:
        raise ConformerError("An input that failed has no molecule to embed.", "embedding_failed")
    mol = Chem.Mol(entry.mol)
    wanted = n_seeds(options)
    counts: Counter[str] = Counter(requested=wanted)
    parameters: Any = rdDistGeom.ETKDGv3()  # RDKit's stubs give its attributes a wrong type
    parameters.clearConfs = False
    parameters.trackFailures = True
    longest = options.embed_timeout if options.max_time is None else min(options.embed_timeout, options.max_time)
    parameters.timeout = math.ceil(longest)  # of each conformer
    causes: Counter[str] = Counter()
    notes = list(entry.notes)
    deadline = math.inf if options.max_time is None else time.monotonic() + options.max_time
    for use_random_coordinates in (False, True):
        parameters.useRandomCoords = use_random_coordinates
        for first in range(0, wanted, GROUP):
            # Amides are nearly always trans, but now and then cis is the lowest; some seeds are free to be either.
            parameters.forceTransAmides = first // GROUP % FREE_AMIDES > 0
            parameters.randomSeed = derived_seed(options.seed, entry.smiles, f"etkdg {first}")
            _embed_seeds(mol, min(GROUP, wanted - first), parameters)
            causes.update(_failure_causes(parameters))
            # Impossible stereochemistry fails for every seed, slowly: a few tell before all are tried.
            if mol.GetNumConformers() == 0 or time.monotonic() > deadline:
                break
        if mol.GetNumConformers() > 0:
            if use_random_coordinates:
                notes.append("ETKDG needed random starting coordinates")
            break
    if time.monotonic() > deadline:
        notes.append(f"only {mol.GetNumConformers()} of {wanted} seeds within max_time")
    check = GeometryCheck(mol)
    for conformer in list(mol.GetConformers()):
        problem = check.problem(torch.from_numpy(conformer.GetPositions()))
        if problem is not None:
            counts[f"embedding_{problem}"] += 1
            mol.RemoveConformer(conformer.GetId())
    counts["embedded"] = mol.GetNumConformers()
    if counts["embedded"] == 0:
        raise _embedding_error(causes, counts, options)
    renumber(mol)
    if n_seeds(options) > n_samples(options):
        _settle(mol, check, deadline)
        mol = _without_alike(mol, counts, deadline)
    return Samples(entry, mol, counts, notes)


def _settle(mol: Mol, check: GeometryCheck, deadline: float) -> None:
    """Brings the seeds to minima of MMFF94s, where it has parameters and until the deadline.

    Its minima are better starting points than ETKDG's geometries, and it costs little: among seeds that have settled,
    more are alike and the lowest are lower (``benchmarks/conformers/screening.py``). Cumulenes stay as they are:
    MMFF94s makes allenes flat, and so loses one of their mirror images.
    """
    if mol.HasSubstructMatch(CUMULENE):
        return
    with rdBase.BlockLogs():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
        if properties is None:
            return
        for conformer in mol.GetConformers():
            if time.monotonic() > deadline:
                return
            before = conformer.GetPositions()
            field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=conformer.GetId())
            field.Minimize(maxIts=SETTLING)  # which moves the conformer
            if check.problem(torch.from_numpy(conformer.GetPositions())) is not None:
                conformer.SetPositions(before)


def _without_alike(mol: Mol, counts: Counter[str], deadline: float) -> Mol:
    """Leaves one of the seeds that seem to lead to the same minimum; those of rigid molecules are all alike.

    Pairs grow with the square of the number of seeds: what has not been compared by the deadline is kept.
    """
    different = different_basins(mol, [0.0] * mol.GetNumConformers(), deadline=deadline)
    counts["alike"] = mol.GetNumConformers() - len(different)
    return with_conformers(mol, [conformer_positions(mol)[k] for k in different])


def without_seeds(entry: MoleculeInput, options: ConformerOptions) -> Samples:
    """As many samples as :func:`embed` makes, with all atoms at one place: their positions come from noise."""
    assert entry.mol is not None
    wanted = n_samples(options)
    nowhere = torch.zeros(entry.mol.GetNumAtoms(), 3, dtype=torch.float64)
    mol = with_conformers(entry.mol, [nowhere] * wanted)
    return Samples(entry, mol, Counter(requested=wanted), list(entry.notes), from_noise=True)


def n_samples(options: ConformerOptions) -> int:
    """Samples relaxed for the conformers asked for."""
    return max(options.n + MORE, round(OVERSAMPLING * options.n))


def n_seeds(options: ConformerOptions) -> int:
    """Seeds made for them; as they come, without refinement and guidance, their energies do not tell which to keep."""
    return (CANDIDATES if options.denoise and options.guidance else 1) * n_samples(options)


def _embed_seeds(mol: Mol, n: int, parameters: Any) -> None:
    try:
        with rdBase.BlockLogs():
            rdDistGeom.EmbedMultipleConfs(mol, n, parameters)
    except (ValueError, RuntimeError) as error:  # RDKit's own; it does not document which
        raise ConformerError(f"ETKDG cannot treat this molecule: {error}", "embedding_failed") from error


def _failure_causes(parameters: Any) -> Counter[str]:
    """RDKit's tally of failed attempts, by cause."""
    tally = list(parameters.GetFailureCounts())
    names = rdDistGeom.EmbedFailureCauses.values
    return Counter({str(names[k]).lower(): n for k, n in enumerate(tally) if n > 0 and k in names})


def _embedding_error(causes: Counter[str], counts: Counter[str], options: ConformerOptions) -> ConformerError:
    listed = [f"{name} {n}" for name, n in causes.most_common()]
    listed += [f"{name} {n}" for name, n in counts.items() if name.startswith("embedding_")]
    if causes["exceeded_timeout"]:
        limit = "embed_timeout" if options.max_time is None else "embed_timeout or max_time"
        return ConformerError(f"ETKDG found no geometry within its time; raise {limit}.", "embedding_timeout")
    return ConformerError(
        f"ETKDG found no geometry of this molecule ({', '.join(listed) or 'no cause reported'}). "
        "Is its stereochemistry possible?",
        "embedding_failed",
    )


def renumber(mol: Mol) -> None:
    """Gives the conformers the ids ``0 .. k-1``."""
    for k, conformer in enumerate(list(mol.GetConformers())):
        conformer.SetId(k)


# ---------------------------------------------------------------------- 2. relaxation


def relax_samples(
    model: ConsistentModel, batch: Sequence[Samples], options: ConformerOptions, max_steps: int | None = None
) -> list[Relaxation]:
    """Relaxes the samples of all molecules together; one :class:`Relaxation` a molecule.

    ``max_steps`` takes the place of the option.
    """
    structures = StructureBatch.from_rdkit([samples.mol for samples in batch])
    whole = relax(
        model,
        structures,
        level=options.level,
        fmax=options.fmax,
        max_steps=options.max_steps if max_steps is None else max_steps,
        max_time=None if options.max_time is None else options.max_time * len(batch),
        max_atoms_per_batch=options.max_atoms_per_batch,
    )
    parts, start = [], 0
    for samples in batch:
        rows = slice(start, start := start + samples.mol.GetNumConformers())
        parts.append(
            Relaxation(
                batch=whole.batch.select(range(rows.start, rows.stop)),
                initial_energy=whole.initial_energy[rows],
                energy=whole.energy[rows],
                fmax=whole.fmax[rows],
                steps=whole.steps[rows],
                converged=whole.converged[rows],
                failed=whole.failed[rows],
            )
        )
    return parts


# ---------------------------------------------------------------------- 3. choice


def choose(
    model: ConsistentModel, samples: Samples, relaxation: Relaxation, options: ConformerOptions
) -> ConformerEnsemble:
    """Drops what is no longer the molecule, keeps each minimum once and ranks.

    Raises:
        ConformerError: nothing is left; the reason is that of most losses.
    """
    counts, relaxed = samples.counts, list(relaxation.batch.positions.cpu().split(relaxation.batch.counts.tolist()))
    survivors, losses, message = [], Counter[str](), ""
    for k, (x, failed) in enumerate(zip(relaxed, relaxation.failed, strict=True)):
        problem = samples.check.problem(x) if failed is None else failed.partition(":")[0]
        if problem is None:
            survivors.append(k)
        else:
            losses[problem] += 1
            message = failed or message
    counts.update(losses)
    if not survivors:
        reason, _ = losses.most_common(1)[0]
        listed = ", ".join(f"{name} {n}" for name, n in losses.items())
        raise ConformerError(f"No sample survived its relaxation ({listed}). {message}".strip(), reason)
    rows = torch.tensor(survivors)
    mol = with_conformers(samples.mol, [relaxed[k] for k in survivors])
    chosen = unique_conformers(mol, relaxation.energy[rows].tolist(), rmsd=options.rmsd_threshold)
    counts["duplicates"] = len(survivors) - len(chosen)
    energies = relative_energies(relaxation.energy[rows[chosen]])
    window = math.inf if options.window is None else options.window
    in_window = [k for k, e in zip(chosen, energies.tolist(), strict=True) if e <= window]
    counts["outside_window"] = len(chosen) - len(in_window)
    kept = in_window[: options.n]
    counts["kept"] = len(kept)
    return _ensemble(model, samples, relaxation, [survivors[k] for k in kept], options)


def _ensemble(
    model: ConsistentModel, samples: Samples, relaxation: Relaxation, kept: list[int], options: ConformerOptions
) -> ConformerEnsemble:
    """The ensemble of these samples, which are sorted by energy."""
    relaxed = relaxation.batch.positions.cpu().split(relaxation.batch.counts.tolist())
    generated = conformer_positions(samples.mol)
    energies, entry = relaxation.energy[kept], samples.input
    mol = with_conformers(samples.mol, [relaxed[k] for k in kept])
    pairs = heavy_atoms(with_conformers(samples.mol, [x for k in kept for x in (generated[k], relaxed[k])]))
    isomers = tuple(perceived_smiles(mol))
    moved = [best_rmsd(pairs, 2 * k, 2 * k + 1) for k in range(len(kept))]
    return ConformerEnsemble(
        id=entry.id,
        name=entry.name,
        smiles=entry.smiles,
        level=options.level or model.levels[0],
        mol=mol,
        energies=energies,
        relative_energies=relative_energies(energies),
        weights=boltzmann_weights(energies, options.temperature),
        moved=torch.tensor(moved, dtype=torch.float64),
        gaps=(relaxation.initial_energy[kept] - energies) / KCAL_PER_MOL,
        agreement=score_force_cosines(model, StructureBatch.from_rdkit(mol), level=options.level),
        converged=relaxation.converged[kept],
        isomers=isomers,
        counts=dict(samples.counts),
        notes=(*samples.notes, *_closing_notes(samples, relaxation, kept, isomers, options)),
    )


def _closing_notes(
    samples: Samples, relaxation: Relaxation, kept: list[int], isomers: tuple[str, ...], options: ConformerOptions
) -> list[str]:
    notes = []
    if len(set(isomers)) > 1:
        notes.append(f"the conformers are of {len(set(isomers))} stereoisomers, see the tag smiles_3d")
    if len(kept) < options.n:
        seeds, samples_from_noise = samples.counts["embedded"], samples.counts["sampled"]
        made = f"{seeds} seeds" if seeds else f"{samples_from_noise} samples from noise"
        notes.append(f"{len(kept)} distinct conformers found from {made}; {options.n} asked")
    lost = samples.counts["stereo_changed"] + samples.counts["bonds_changed"]
    if lost:
        notes.append(f"{lost} samples were dropped because relaxation changed their stereochemistry or bonds")
    unconverged = int((~relaxation.converged[kept]).sum())
    if unconverged:
        notes.append(f"{unconverged} conformers did not reach fmax = {options.fmax} eV/Angstrom")
    return notes


def with_conformers(mol: Mol, positions: Sequence[Tensor]) -> Mol:
    """A copy of the molecule with exactly these conformers, ids ``0 .. k-1``."""
    out = Chem.Mol(mol)
    out.RemoveAllConformers()
    for x in positions:
        conformer = Chem.Conformer(out.GetNumAtoms())
        conformer.Set3D(True)
        conformer.SetPositions(x.double().numpy())
        out.AddConformer(conformer, assignId=True)
    return out
