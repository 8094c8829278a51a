"""The small data of the tutorial on fine-tuning: carbamates at GFN2-xTB, as a user would bring them.

python benchmarks/data/label_carbamates.py        # needs tblite; writes tutorials/data/carbamates_gfn2.xyz

Frames of Langevin dynamics at 500 K on the shipped model's default level, from one relaxed ETKDG geometry a molecule,
labelled with energies and forces by tblite.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule

from consistent_calc import ConsistentCalculator
from consistent_calc.data import Split, bucket_of_smiles, split_of_bucket
from consistent_calc.labelling.gfn2 import Tblite

TARGET = Path("tutorials/data/carbamates_gfn2.xyz")
N_FRAMES = 12
SPACING = 100  # steps of 1 fs
TEMPERATURE = 500  # K
SMILES = (
    "COC(N)=O",
    "CCOC(N)=O",
    "CNC(=O)OC",
    "CN(C)C(=O)OC",
    "CCNC(=O)OC",
    "CC(C)OC(N)=O",
    "O=C1NCCO1",
    "O=C1NCCCO1",
    "CN1CCOC1=O",
    "C=CCOC(N)=O",
    "C#CCOC(N)=O",
    "COC(=O)NCC#N",
    "COC(=O)NCCO",
    "NC(=O)OCCO",
    "NC(=O)OCCF",
    "COC(=O)NCC=O",
)


def trajectory(smiles: str, calculator: ConsistentCalculator, seed: int) -> list[Atoms]:
    """Frames of one molecule, without labels."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    EmbedMolecule(mol, randomSeed=1)
    atoms = Atoms([a.GetSymbol() for a in mol.GetAtoms()], mol.GetConformer().GetPositions(), calculator=calculator)
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
    rng = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=rng)
    dynamics = Langevin(atoms, 1 * units.fs, temperature_K=TEMPERATURE, friction=0.01 / units.fs, rng=rng)
    frames: list[Atoms] = []
    for _ in range(N_FRAMES):
        dynamics.run(SPACING)
        frames.append(Atoms(atoms.numbers, atoms.positions, info={"smiles": smiles, "charge": 0}))
    return frames


def main() -> None:
    engine, calculator, labelled = Tblite("GFN2-xTB"), ConsistentCalculator(), []
    for k, smiles in enumerate(SMILES):
        if split_of_bucket(bucket_of_smiles(smiles)) is Split.TEST:
            print(f"{smiles} is a test molecule; left out")
            continue
        for atoms in trajectory(smiles, calculator, k):
            label = engine.single_point(atoms.numbers, atoms.positions, 0)
            atoms.calc = SinglePointCalculator(atoms, energy=label.energy, forces=label.forces)
            labelled.append(atoms)
        print(smiles, len(labelled), flush=True)
    write(TARGET, labelled)


if __name__ == "__main__":
    main()
