"""Energy conservation: NVE dynamics at 300 K of aspirin and alanine dipeptide, in float32 and float64.

    python benchmarks/dynamics/run.py [--picoseconds 5]

Velocity Verlet with 0.5 fs steps after a short Langevin equilibration. Drift is the slope of a linear fit of the total
energy per atom. Bonds are those of the starting geometry, intact if none grew beyond 1.35 times the covalent radii.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from scipy.stats import linregress

from consistent_calc import ConsistentCalculator, ConsistentModel, StructureBatch, load_model
from consistent_calc.conformers import read_molecules
from consistent_calc.conformers.generate import ConformerOptions, Samples, embed

MOLECULES = {"aspirin": "CC(=O)Oc1ccccc1C(=O)O", "alanine dipeptide": "CC(=O)N[C@@H](C)C(=O)NC"}
TIMESTEP_FS = 0.5


def trajectory(atoms: Atoms, sample: Samples, picoseconds: float, seed: int) -> dict[str, float | bool]:
    """Equilibrates, then follows the total energy at constant energy."""
    rng = np.random.default_rng(seed)
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=500)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=rng)
    Langevin(atoms, TIMESTEP_FS * units.fs, temperature_K=300, friction=0.02 / units.fs, rng=rng).run(400)
    Stationary(atoms)
    ZeroRotation(atoms)
    times, energies, temperatures, intact = [], [], [], True
    dynamics = VelocityVerlet(atoms, TIMESTEP_FS * units.fs)
    begin = time.perf_counter()
    for _ in range(round(picoseconds * 1000 / TIMESTEP_FS / 10)):
        dynamics.run(10)
        times.append(dynamics.get_time() / units.fs / 1000)
        energies.append(atoms.get_total_energy() / len(atoms))
        temperatures.append(atoms.get_temperature())
        intact &= sample.check.problem(torch.from_numpy(atoms.positions)) != "bonds_changed"
    slope = linregress(times, energies).slope
    steps = round(picoseconds * 1000 / TIMESTEP_FS)
    return {
        "atoms": len(atoms),
        "drift_meV_per_atom_ps": float(slope * 1000),
        "energy_std_meV_per_atom": float(np.std(energies) * 1000),
        "mean_temperature_K": float(np.mean(temperatures)),
        "bonds_intact": bool(intact),
        "steps_per_second": steps / (time.perf_counter() - begin),
    }


def run(model: ConsistentModel, picoseconds: float) -> dict[str, dict[str, float | bool]]:
    """All molecules with one model."""
    out = {}
    for name, smiles in MOLECULES.items():
        sample = embed(next(read_molecules(smiles)), ConformerOptions(n=1))
        (atoms,) = StructureBatch.from_rdkit(sample.mol)[0].to_ase()
        atoms.calc = ConsistentCalculator(model)
        out[name] = trajectory(atoms, sample, picoseconds, seed=1)
        print(name, str(model.dtype), out[name], flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--picoseconds", type=float, default=5.0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "nve.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        str(dtype).removeprefix("torch."): run(load_model(arguments.checkpoint, dtype=dtype), arguments.picoseconds)
        for dtype in (torch.float32, torch.float64)
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
