"""The ways to conformers that are compared; each makes ten samples of a molecule, relaxes and ranks them its own way.

| name | samples | relaxed and ranked with |
|---|---|---|
| etkdg | RDKit's ETKDGv3 | nothing (the first sample counts as the best) |
| mmff | ETKDGv3 | MMFF94s |
| gfn2 | as mmff, the lowest few of them | GFN2-xTB |
| etkdg_ours, mmff_ours | as etkdg, mmff | the model |
| seeds | the structure head, from ETKDG seeds | the model |
| noise | the structure head, from noise | the model |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom
from rdkit.Chem.rdForceFieldHelpers import MMFFHasAllMoleculeParams, MMFFOptimizeMoleculeConfs

from consistent_calc import ConsistentModel, StructureBatch, relax
from consistent_calc.conformers import ConformerOptions, MoleculeInput
from consistent_calc.conformers.deduplicate import unique_conformers
from consistent_calc.conformers.generate import derived_seed, n_samples, relax_samples, with_conformers
from consistent_calc.conformers.sample import draw_samples
from consistent_calc.conformers.stream import sampling_error, start
from consistent_calc.errors import ConformerError, LabellingError
from consistent_calc.labelling.engine import Engine
from consistent_calc.units import KCAL_PER_MOL

Array = NDArray[np.float64]

METHODS = ("etkdg", "mmff", "gfn2", "etkdg_ours", "mmff_ours", "seeds", "noise")
#: Those of them that the package's generator makes.
GENERATED = ("seeds", "noise")
#: Options with which the generator makes ten samples, and their number for the other methods.
OPTIONS = ConformerOptions(n=6)
N_SAMPLES = n_samples(OPTIONS)


@dataclass(eq=False)
class Outcome:
    """What a method made of a molecule.

    Attributes:
        raw, final: ``[k, n_atoms, 3]``, Angstrom, before and after the relaxation; the same rows.
        energies: ``[k]``, kcal/mol, by which the method ranks; None if it does not.
        seconds: for all samples, from the SMILES on.
        failure: why there is nothing.
        changed: samples that the method dropped because they were no longer the molecule.
    """

    raw: Array = field(default_factory=lambda: np.zeros((0, 0, 3)))
    final: Array = field(default_factory=lambda: np.zeros((0, 0, 3)))
    energies: Array | None = None
    seconds: float = 0.0
    failure: str | None = None
    changed: int = 0

    @property
    def best(self) -> int:
        """Row of the conformer that a user would take."""
        return 0 if self.energies is None else int(np.argmin(self.energies))


def run_methods(
    entry: MoleculeInput, seed: int, wanted: Collection[str], model: ConsistentModel, gfn2: Engine, gfn2_samples: int
) -> dict[str, Outcome]:
    """The wanted methods for one molecule (gfn2 only with samples for it); a failed one has a reason and no structures.

    Those that another one starts from run too, but are not in the result unless they are wanted.
    """
    assert entry.mol is not None
    out: dict[str, Outcome] = {}

    def add(name: str, work: Callable[[], Outcome], base: Outcome | None = None) -> None:
        begin = time.perf_counter()
        try:
            if base is not None and base.failure:
                raise ConformerError(base.failure, base.failure)
            out[name] = work()
        except (ConformerError, LabellingError) as error:
            out[name] = Outcome(failure=error.reason)
        out[name].seconds = time.perf_counter() - begin + (base.seconds if base else 0.0)

    mol = entry.mol
    if set(wanted) - set(GENERATED):
        add("etkdg", lambda: etkdg(entry, seed))
        add("mmff", lambda: mmff(mol, out["etkdg"]), out["etkdg"])
    if "gfn2" in wanted and gfn2_samples:
        add("gfn2", lambda: with_gfn2(mol, out["mmff"], gfn2, gfn2_samples), out["mmff"])
    for name in {"etkdg_ours", "mmff_ours"} & set(wanted):
        base = out[name.removesuffix("_ours")]
        add(name, lambda base=base: with_model(mol, base, model), base)
    for name in set(GENERATED) & set(wanted):
        add(name, lambda name=name: ours(entry, replace(OPTIONS, method=name, seed=seed), model))
    return {name: outcome for name, outcome in out.items() if name in wanted}


def etkdg(entry: MoleculeInput, seed: int) -> Outcome:
    """RDKit alone, as most people call it."""
    mol = Chem.Mol(entry.mol)
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = derived_seed(seed, entry.smiles, "benchmark")
    parameters.timeout = 60
    with rdBase.BlockLogs():
        rdDistGeom.EmbedMultipleConfs(mol, N_SAMPLES, parameters)
    if mol.GetNumConformers() == 0:
        raise ConformerError("ETKDG found no geometry.", "embedding_failed")
    x = positions(mol)
    return Outcome(x, x)


def mmff(mol: Chem.Mol, seeds: Outcome) -> Outcome:
    """MMFF94s to convergence."""
    if not MMFFHasAllMoleculeParams(mol):
        raise ConformerError("MMFF94s has no parameters for this molecule.", "no_parameters")
    mol = with_positions(mol, seeds.raw)
    found = MMFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=5000, mmffVariant="MMFF94s")
    return Outcome(seeds.raw, positions(mol), np.array([energy for _, energy in found]))


def with_gfn2(mol: Chem.Mol, start_from: Outcome, engine: Engine, limit: int) -> Outcome:
    """The lowest samples of another method, each minimum once, relaxed with GFN2-xTB."""
    assert start_from.energies is not None
    energies = start_from.energies * KCAL_PER_MOL
    rows = unique_conformers(with_positions(mol, start_from.final), energies, rmsd=0.05, energy_window=0.05)[:limit]
    labels = [gfn2_minimum(mol, start_from.final[k], engine) for k in rows]
    kept = [k for k, label in enumerate(labels) if label is not None]
    if not kept:
        raise ConformerError("No sample was relaxed by GFN2-xTB.", "not_converged")
    final = np.stack([labels[k][0] for k in kept])
    return Outcome(start_from.final[[rows[k] for k in kept]], final, np.array([labels[k][1] for k in kept]))


def gfn2_minimum(mol: Chem.Mol, x: Array, engine: Engine) -> tuple[Array, float] | None:
    """Positions and energy (kcal/mol) of the minimum that GFN2-xTB finds; None if it finds none."""
    numbers = np.array([a.GetAtomicNum() for a in mol.GetAtoms()])
    try:
        label = engine.minimum(numbers, x, Chem.GetFormalCharge(mol), fmax=0.05)
    except LabellingError:
        return None
    return label.positions, label.energy / KCAL_PER_MOL


def with_model(mol: Chem.Mol, seeds: Outcome, model: ConsistentModel) -> Outcome:
    """Samples of another method, relaxed with the model."""
    found = relax(model, StructureBatch.from_rdkit([with_positions(mol, seeds.final)]), fmax=OPTIONS.fmax)
    x = found.batch.positions.reshape(len(seeds.final), -1, 3).numpy()
    kept = [k for k, failed in enumerate(found.failed) if failed is None]
    return Outcome(seeds.final[kept], x[kept], found.energy.numpy()[kept] / KCAL_PER_MOL)


def ours(entry: MoleculeInput, options: ConformerOptions, model: ConsistentModel) -> Outcome:
    """The generator of the package, with all its samples kept: no deduplication, no window."""
    samples = start(entry, options)
    draw_samples(model, [samples], options)
    if samples.mol.GetNumConformers() == 0:
        raise sampling_error(samples)
    raw = positions(samples.mol)
    (found,) = relax_samples(model, [samples], options)
    final = found.batch.positions.reshape(raw.shape).numpy()
    kept = [
        k for k, x in enumerate(final) if found.failed[k] is None and samples.check.problem(torch.from_numpy(x)) is None
    ]
    if not kept:
        raise ConformerError("No sample survived its relaxation.", "stereo_changed")
    return Outcome(raw[kept], final[kept], found.energy.numpy()[kept] / KCAL_PER_MOL, changed=len(raw) - len(kept))


def positions(mol: Chem.Mol) -> Array:
    """``[n_conformers, n_atoms, 3]``."""
    return np.stack([c.GetPositions() for c in mol.GetConformers()])


def with_positions(mol: Chem.Mol, x: Array) -> Chem.Mol:
    """A copy of the molecule with these conformers."""
    return with_conformers(mol, list(torch.from_numpy(x)))
