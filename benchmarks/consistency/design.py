"""The design of the experiment: data, model, stages and variants."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from consistent_calc.train.configuration import (
    Architecture,
    Consistency,
    DataSource,
    Noise,
    Schedule,
    TrainingConfig,
    Weights,
)

#: What stage 2 adds to the multi-task losses. Forms and factors were chosen on validation molecules (``tune.py``).
VARIANTS = ("multitask", "optimality", "score", "both")

#: Forms that judge the prediction instead of correcting the target, as the paper is understood; with external forces.
ABLATIONS = ("gap", "comparison")

#: Force labels that both stages may learn from. The last two are those of a few hundred molecules.
FORCES = ("none", "external", "same_level", "few", "dft")
MAIN_FORCES = FORCES[:3]

STAGE_1_STEPS = 2500
STAGE_2_STEPS = 600
STAGE_3_STEPS = 200

MODEL = Architecture(channels=(48, 24), n_layers=3, radial_size=12)
NOISE = Noise(median=0.8, spread=1.6, low=0.02, high=8.0)
SCHEDULE = Schedule(
    warmup_steps=100, clip_norm=5.0, ema_decay=0.995, checkpoint_minutes=2.0, validation_minutes=1e6, weight_decay=1e-5
)
MULTITASK = Weights(energy=1.0, forces=3.0, charges=0.0, dipole=0.0, structure=1.0)

#: The denoising loss towards the corrected target takes the place of the structure loss.
CORRECTED = replace(MULTITASK, structure=0.0, optimality=1.0)
NEWTON = Consistency(optimality="newton", optimality_noise=(0.0, 100.0))
DFT_LEVEL = "B3LYP/6-31G(2df,p)"
OBJECTIVES = {
    "multitask": (MULTITASK, Consistency()),
    "optimality": (CORRECTED, NEWTON),
    "score": (replace(MULTITASK, score=0.01), Consistency()),
    "both": (replace(CORRECTED, score=0.01), NEWTON),
    "optimality_b3lyp": (CORRECTED, replace(NEWTON, level=DFT_LEVEL)),
    "gap": (replace(MULTITASK, optimality=2.0), Consistency(optimality="gap", optimality_noise=(0.1, 2.0))),
    "comparison": (replace(MULTITASK, optimality=2.0), Consistency(optimality_noise=(1.0, 100.0))),
}


@dataclass(frozen=True)
class Run:
    """One training run of stage 2.

    Attributes:
        variant: one of :data:`OBJECTIVES`.
        forces: one of :data:`FORCES`.
        seed: of stage 1, data order and noise, the same for all variants.
        fine_tuning: a third stage on a few accurate structures, from the second.
    """

    variant: str
    forces: str
    seed: int
    fine_tuning: bool = False

    @property
    def name(self) -> str:
        """Name of the folder of the run."""
        return f"{self.variant}_{self.forces}_{self.seed}" + ("_finetuned" if self.fine_tuning else "")


def stage_1(folder: Path, data: Path, forces: str, seed: int) -> TrainingConfig:
    """Multi-task training: accurate energies at PM6 geometries, structures of PM6, and the forces of the setting.

    Unlike the paper's, ours has the forces in the first stage already: with some hundred steps of forces in the second
    stage only, descent on the learned energy led away from the accurate minima.
    """
    return TrainingConfig(
        output=str(folder / f"stage1_{forces}_{seed}"),
        energy=_energy_sources(data, forces),
        structure=(DataSource(_path(data, "pm6_train.h5"), 320),),
        model=MODEL,
        weights=MULTITASK,
        noise=NOISE,
        schedule=replace(SCHEDULE, steps=STAGE_1_STEPS, learning_rate=2e-3),
        seed=seed,
        threads=1,
    )


def stage_2(run: Run, folder: Path, data: Path) -> TrainingConfig:
    """The second stage of one variant: from the weights of stage 1, equal steps and structures for all."""
    first = stage_1(folder, data, run.forces, run.seed)
    weights, consistency = OBJECTIVES[run.variant]
    return replace(
        first,
        output=str(folder / run.name),
        start=str(Path(first.output) / "model"),
        weights=weights,
        consistency=consistency,
        schedule=replace(SCHEDULE, steps=STAGE_2_STEPS, learning_rate=1e-3),
        seed=run.seed + 100,
    )


def stage_3(run: Run, folder: Path, data: Path) -> TrainingConfig:
    """Fine-tuning: as stage 2, but the structures are a few hundred accurate minima."""
    second = stage_2(replace(run, fine_tuning=False), folder, data)
    return replace(
        second,
        output=str(folder / run.name),
        start=str(Path(second.output) / "model"),
        structure=(DataSource(_path(data, "minima_train.h5"), 320),),
        schedule=replace(SCHEDULE, steps=STAGE_3_STEPS, learning_rate=5e-4),
        seed=run.seed + 200,
    )


def _energy_sources(data: Path, forces: str) -> tuple[DataSource, ...]:
    """Accurate energies at cheap geometries, and the force labels of a setting.

    ``external``: off-equilibrium structures of other molecules at the same level; ``same_level``: the forces at the PM6
    geometries themselves; ``dft``: a few hundred B3LYP forces at PM6 geometries through a readout of their own;
    ``few``: the same molecules at the level of the energies.
    """
    energies = DataSource(_path(data, "at_pm6_train.h5"), 320, forces=forces == "same_level")
    extra = {"external": ("../organic.h5", 320), "few": ("few_train.h5", 80), "dft": ("dft_train.h5", 80)}
    if forces not in extra:
        return (energies,)
    name, atoms = extra[forces]
    return (energies, DataSource(_path(data, name), atoms))


def _path(data: Path, name: str) -> str:
    return os.path.normpath(data / name)


def force_settings(data: Path, *, everything: bool) -> tuple[str, ...]:
    """The main force settings; with everything, those of few molecules too if their labels have been made."""
    few = tuple(f for f in ("few", "dft") if everything and (data / f"{f}_train.h5").exists())
    return MAIN_FORCES + few


def runs_of_seed(seed: int, data: Path, *, everything: bool) -> list[Run]:
    """Runs of stages 2 and 3 with one seed: all of them, or those of the main comparison."""
    main = ("multitask", "optimality")
    if not everything:
        return [Run(v, f, seed) for f in MAIN_FORCES for v in main]
    variants = dict.fromkeys(MAIN_FORCES, VARIANTS) | {"few": main, "dft": (*main, "optimality_b3lyp")}
    runs = [Run(v, f, seed) for f in force_settings(data, everything=True) for v in variants[f]]
    runs += [Run(v, "external", seed) for v in ABLATIONS]
    return runs + [Run(v, "external", seed, fine_tuning=True) for v in main]
