"""Torsion profiles of 38 drug-like rotatable bonds: 24 points each, relaxed and judged by the teacher.

    python benchmarks/accuracy/torsions.py [--checkpoint base] [--limit 5]

``torsions.smi`` holds mapped SMILES; the atoms 1-4 make the torsion. The teacher relaxes the molecule with the torsion
held near each angle, starting from the point before. These scans are kept in ``--scans``, since they do not depend on
the checkpoint (minutes of one core the first time). All methods give single points on the teacher's geometries.
Relative energies have each profile's mean error taken off; a barrier is the highest above the lowest point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from judges import COLORS, Array, Energies, arguments, centred_errors, load, mean, numbers, refuse_test_molecule
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms
from rdkit.Chem.rdForceFieldHelpers import MMFFOptimizeMolecule
from summary import update_summary, write_csv

from consistent_calc.errors import LabellingError
from consistent_calc.labelling.engine import Engine, Label

mpl.use("Agg")
import matplotlib.pyplot as plt

ANGLES = np.arange(-180, 180, 15)
#: Stiffness that holds the torsion within some degrees of its angle, eV/rad^2.
STIFFNESS = 20.0
FMAX = 0.03


@dataclass(frozen=True)
class Torsion:
    """A rotatable bond.

    Attributes:
        name, kind: of the molecule, and of its chemistry.
        mol: with hydrogens, without atom maps.
        atoms: the four of the torsion.
        split: side of the split of the molecule.
    """

    name: str
    kind: str
    mol: Chem.Mol
    atoms: tuple[int, int, int, int]
    split: str


@dataclass(frozen=True)
class Held(Engine):
    """An engine with a spring on one torsion."""

    engine: Engine
    atoms: tuple[int, int, int, int]
    angle: float  # radians

    def single_point(self, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        label = self.engine.single_point(numbers, positions, charge)
        x = torch.tensor(positions, requires_grad=True)
        spring = STIFFNESS * (1 - torch.cos(dihedral(x[list(self.atoms)]) - self.angle))
        (gradient,) = torch.autograd.grad(spring, x)
        return replace(label, energy=label.energy + float(spring.detach()), forces=label.forces - gradient.numpy())


def dihedral(x: torch.Tensor) -> torch.Tensor:
    """Dihedral angle of four positions ``[4, 3]``, radians, with the sign of IUPAC."""
    a, b, c = x[1:] - x[:-1]
    first, second = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
    return torch.atan2((torch.linalg.cross(first, second) * b).sum() / b.norm(), (first * second).sum())


def read_torsions(path: Path) -> list[Torsion]:
    """The torsions of a file of lines ``mapped SMILES, name, kind``.

    Raises:
        DataError: one of the molecules is a test molecule.
    """
    out = []
    for line in path.read_text().splitlines():
        smiles, name, kind = line.split()
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        found = {a.GetAtomMapNum(): a.GetIdx() for a in mol.GetAtoms()}
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
        split = refuse_test_molecule(Chem.MolToSmiles(Chem.RemoveHs(mol)))
        out.append(Torsion(name, kind, mol, (found[1], found[2], found[3], found[4]), str(split)))
    return out


def scan(torsion: Torsion, teacher: Engine) -> Array:
    """Geometries relaxed by the teacher, ``[24, n_atoms, 3]``; NaN where the relaxation failed."""
    mol, charge = Chem.Mol(torsion.mol), Chem.GetFormalCharge(torsion.mol)
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=2000)
    conformer = mol.GetConformer()
    out = np.full((len(ANGLES), mol.GetNumAtoms(), 3), np.nan)
    for k, angle in enumerate(ANGLES):
        rdMolTransforms.SetDihedralDeg(conformer, *torsion.atoms, float(angle))
        held = Held(teacher, torsion.atoms, float(np.radians(angle)))
        try:
            out[k] = held.minimum(numbers(mol), conformer.GetPositions(), charge, FMAX).positions
        except LabellingError as error:
            print(f"{torsion.name} at {angle} degrees: {error}", flush=True)
        else:
            conformer.SetPositions(out[k])
    return out


def scans(torsions: list[Torsion], teacher: Engine, path: Path) -> dict[str, Array]:
    """The scans of all torsions, those that are kept in a file and those that are new."""
    known: dict[str, Array] = dict(np.load(path)) if path.exists() else {}
    for torsion in torsions:
        if torsion.name not in known:
            known[torsion.name] = scan(torsion, teacher)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, **known)
            print(torsion.name, flush=True)
    return known


def profiles(mol: Chem.Mol, x: Array, methods: dict[str, Energies]) -> dict[str, Array]:
    """Energies of every method at the points of a scan, ``[24]``, kcal/mol; NaN where there is no geometry."""
    known = ~np.isnan(x).any((1, 2))
    out = {}
    for name, energies in methods.items():
        out[name] = np.full(len(x), np.nan)
        out[name][known] = energies(mol, x[known])
    return out


def height(profile: Array) -> float:
    """Barrier height of a profile."""
    return float(np.nanmax(profile) - np.nanmin(profile))


def measure(torsion: Torsion, found: dict[str, Array]) -> list[dict[str, Any]]:
    """One row a method."""
    reference = found["teacher"]
    return [
        {
            "torsion": torsion.name,
            "kind": torsion.kind,
            "split": torsion.split,
            "points": int((~np.isnan(profile)).sum()),
            "method": method,
            "relative_energy_mae_kcal_mol": mean(np.abs(centred_errors(profile, reference)))[0],
            "barrier_kcal_mol": height(profile) if not np.isnan(profile).all() else float("nan"),
            "teacher_barrier_kcal_mol": height(reference),
        }
        for method, profile in found.items()
        if method != "teacher"
    ]


def draw(found: dict[str, dict[str, Array]], path: Path) -> None:
    """All profiles, each above its own lowest point."""
    columns = 6
    lines = -(-len(found) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(2.4 * columns, 2.0 * lines), layout="constrained")
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, (name, methods) in zip(axes.flat, found.items(), strict=False):
        for method, profile in methods.items():
            width = 2.2 if method in ("teacher", "ours") else 1.0
            axis.plot(ANGLES, profile - np.nanmin(profile), color=COLORS[method], linewidth=width, label=method)
        axis.set_title(name.replace("_", " "), fontsize=8)
        axis.set_xticks((-180, -90, 0, 90))
        axis.tick_params(labelsize=7)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel("torsion (°)", fontsize=9)
    figure.supylabel("energy (kcal/mol)", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--limit", type=int, default=None, help="only the first few torsions")
    parser.add_argument("--scans", type=Path, default=Path("runs/accuracy/torsions.npz"))
    options = parser.parse_args()
    torsions = read_torsions(Path(__file__).with_name("torsions.smi"))[: options.limit]
    judges = load(options)
    geometries = scans(torsions, judges.teacher, options.scans)
    found = {t.name: profiles(t.mol, geometries[t.name], judges.energies()) for t in torsions}
    rows = [row for t in torsions for row in measure(t, found[t.name])]
    write_csv(options.results / "torsions.csv", rows)
    lines = []
    for method in ("ours", "GFN2-xTB", "MMFF94s"):
        own = [r for r in rows if r["method"] == method]
        barriers = [abs(r["barrier_kcal_mol"] - r["teacher_barrier_kcal_mol"]) for r in own]
        errors = [r["relative_energy_mae_kcal_mol"] for r in own]
        lines.append((method, "relative energy MAE (kcal/mol)", *mean(errors)))
        lines.append((method, "largest relative energy MAE (kcal/mol)", float(np.nanmax(errors)), len(errors)))
        lines.append((method, "barrier height MAE (kcal/mol)", *mean(barriers)))
    update_summary(options.results, "torsions", lines)
    draw(found, options.results / "torsions.png")


if __name__ == "__main__":
    main()
