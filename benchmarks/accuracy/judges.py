"""The energies that the accuracy benchmarks compare: the teacher, our model, GFN2-xTB and MMFF94s.

The teacher, AIMNet2 (fitted to wB97M-D3/def2-TZVPP), made the training labels of our default level. Errors of ours
against it are therefore errors of distillation, and say nothing of the teacher's own; GFN2-xTB and MMFF94s, which never
saw it, are judged against it too, and a part of their errors is the teacher's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem.rdForceFieldHelpers import MMFFGetMoleculeForceField, MMFFGetMoleculeProperties

from consistent_calc import ConsistentModel, StructureBatch, load_model
from consistent_calc.checkpoint import DEFAULT
from consistent_calc.conformers.generate import with_conformers
from consistent_calc.data.split import Split, bucket_of_smiles, split_of_bucket
from consistent_calc.errors import DataError, LabellingError
from consistent_calc.labelling.engine import Engine
from consistent_calc.units import KCAL_PER_MOL

Array = NDArray[np.float64]

#: Energies in kcal/mol, ``[k]``, of structures ``[k, n_atoms, 3]`` of a molecule with explicit hydrogens; NaN where a
#: method has none.
Energies = Callable[[Chem.Mol, Array], Array]

COLORS = {"teacher": "#111827", "ours": "#2563eb", "GFN2-xTB": "#d97706", "MMFF94s": "#9ca3af"}


@dataclass(frozen=True)
class Judges:
    """Everything that gives energies.

    Attributes:
        model: ours, in float64.
        teacher, gfn2: engines.
    """

    model: ConsistentModel
    teacher: Engine
    gfn2: Engine

    def energies(self) -> dict[str, Energies]:
        """All methods by name, the teacher first."""
        return {
            "teacher": lambda mol, x: of_engine(self.teacher, mol, x),
            "ours": lambda mol, x: of_model(self.model, mol, x),
            "GFN2-xTB": lambda mol, x: of_engine(self.gfn2, mol, x),
            "MMFF94s": of_mmff,
        }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all accuracy benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=DEFAULT, help="path, or name of a shipped one")
    parser.add_argument("--teacher", type=Path, default=Path("datasets/aimnet2/aimnet2_wb97m-d3_0.jpt"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    return parser


def load(options: argparse.Namespace) -> Judges:
    """The methods that the arguments ask for, on one thread."""
    from consistent_calc.labelling.aimnet2 import AimNet2
    from consistent_calc.labelling.gfn2 import Tblite

    torch.set_num_threads(1)
    model = load_model(options.checkpoint, dtype=torch.float64)
    return Judges(model, AimNet2("wB97M-D3/def2-TZVPP", options.teacher), Tblite("GFN2-xTB"))


def numbers(mol: Chem.Mol) -> NDArray[np.int64]:
    """Atomic numbers, ``[n_atoms]``."""
    return np.array([a.GetAtomicNum() for a in mol.GetAtoms()])


def of_engine(engine: Engine, mol: Chem.Mol, x: Array) -> Array:
    """Single points, one after the other."""
    energies = np.full(len(x), np.nan)
    for k, positions in enumerate(x):
        try:
            energies[k] = engine.single_point(numbers(mol), positions, Chem.GetFormalCharge(mol)).energy
        except LabellingError as error:
            print(f"{engine.level}, {Chem.MolToSmiles(mol)}: {error}", flush=True)
    return energies / KCAL_PER_MOL


def of_model(model: ConsistentModel, mol: Chem.Mol, x: Array) -> Array:
    """One batch at the model's default level."""
    one = StructureBatch.from_arrays(numbers(mol), x[0], charge=Chem.GetFormalCharge(mol))
    batch = StructureBatch.concatenate([one] * len(x)).with_positions(torch.from_numpy(x.reshape(-1, 3)))
    return model.predict(batch, forces=False).energy.numpy() / KCAL_PER_MOL


def of_mmff(mol: Chem.Mol, x: Array) -> Array:
    """MMFF94s, for the atom types of the graph as given."""
    mol = with_conformers(mol, list(torch.from_numpy(x)))
    with rdBase.BlockLogs():
        properties = MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
    if properties is None:
        return np.full(len(x), np.nan)
    settings = {"nonBondedThresh": 100.0, "ignoreInterfragInteractions": False}
    fields = [MMFFGetMoleculeForceField(mol, properties, confId=k, **settings) for k in range(len(x))]
    return np.array([field.CalcEnergy() for field in fields])


def refuse_test_molecule(smiles: str) -> Split:
    """The side of the split of a molecule of these benchmarks, which is never the test side.

    Raises:
        DataError: it is.
    """
    side = split_of_bucket(bucket_of_smiles(smiles))
    if side is Split.TEST:
        raise DataError(f"{smiles} is a test molecule; choose another one.")
    return side


def centred_errors(energies: Array, reference: Array) -> Array:
    """Errors of relative energies: differences to the reference with their mean taken off, NaN left out."""
    difference = energies - reference
    difference = difference[~np.isnan(difference)]
    return difference - difference.mean() if len(difference) else difference


def relative_energy_mae(energies: Array, reference: Array, molecule: NDArray[np.int64]) -> tuple[float, int]:
    """Of all molecules together, each with its own mean taken off, and the number of energies that are not NaN."""
    errors = energies - reference
    known = ~np.isnan(errors)
    errors = within_molecules(errors[known], molecule[known])
    return float(np.abs(errors).mean()), len(errors)


def within_molecules(energies: Array, molecule: NDArray[np.int64]) -> Array:
    """Energies with the mean of each molecule taken off."""
    _, owner, count = np.unique(molecule, return_inverse=True, return_counts=True)
    return energies - (np.bincount(owner, weights=energies) / count)[owner]


def mean(values: Any) -> tuple[float, int]:
    """Mean and number of the values that are not NaN."""
    known = np.array([v for v in values if not np.isnan(v)])
    return (float(known.mean()) if len(known) else float("nan")), len(known)
