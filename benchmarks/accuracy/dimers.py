"""Interaction energies of 20 dimers along distance scans, and whether they hold at short range.

    python benchmarks/accuracy/dimers.py [--checkpoint base] [--limit 3]

Each dimer is relaxed by the teacher from the six lowest minima of MMFF94s, and the lowest result is taken (kept in
``--dimers``, since it does not depend on the checkpoint). One monomer is then moved rigidly along the closest contact,
so that this distance is 0.85 to 2.0 times what it was (10 points); the interaction energy is that of the dimer above
its monomers apart in the same geometry. On compression down to 0.6 of the distance (41 points from 1.0) it should only
rise: a hole is a fall by more than 0.5 kcal/mol inside of 0.85. That is no matter of accuracy but of whether molecules
collapse. Far apart (50 Angstrom more) the interaction should vanish; where it does not, the energy is not that of two
molecules (a total charge that all atoms see is shared by both).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from judges import COLORS, Array, Energies, arguments, load, mean, numbers, refuse_test_molecule
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rdkit.Chem.rdForceFieldHelpers import MMFFOptimizeMoleculeConfs
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation
from summary import update_summary, write_csv

from consistent_calc.conformers.generate import with_conformers
from consistent_calc.errors import LabellingError
from consistent_calc.labelling.engine import Engine

mpl.use("Agg")
import matplotlib.pyplot as plt

MONOMERS = {
    "water": "O",
    "methanol": "CO",
    "ammonia": "N",
    "methane": "C",
    "formamide": "NC=O",
    "acetic acid": "CC(=O)O",
    "N-methylacetamide": "CC(=O)NC",
    "benzene": "c1ccccc1",
    "pyridine": "c1ccncc1",
    "acetone": "CC(C)=O",
    "bromobenzene": "Brc1ccccc1",
    "methanethiol": "CS",
    "acetate": "CC(=O)[O-]",
    "methylammonium": "C[NH3+]",
}
DIMERS = (
    ("water", "water"),
    ("water", "methanol"),
    ("water", "ammonia"),
    ("water", "formamide"),
    ("methanol", "methanol"),
    ("formamide", "formamide"),
    ("acetic acid", "acetic acid"),
    ("N-methylacetamide", "N-methylacetamide"),
    ("ammonia", "ammonia"),
    ("methane", "methane"),
    ("benzene", "methane"),
    ("benzene", "water"),
    ("benzene", "benzene"),
    ("benzene", "ammonia"),
    ("pyridine", "water"),
    ("acetone", "bromobenzene"),
    ("methanethiol", "water"),
    ("acetate", "water"),
    ("methylammonium", "water"),
    ("methylammonium", "benzene"),
)
FACTORS = np.array([0.85, 0.9, 0.95, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0])
COMPRESSION = np.linspace(1.0, 0.6, 41)
#: Angstrom by which the monomers are moved apart to see their interaction vanish.
FAR = 50.0
#: A fall of the energy on compression, kcal/mol, that counts as a hole, and where compression begins.
HOLE, HOLE_FROM = 0.5, 0.85
#: Random orientations that MMFF94s relaxes, and how many of its minima, this far apart (kcal/mol), the teacher does.
ORIENTATIONS, RELAXED, DISTINCT = 60, 6, 0.1
FMAX = 0.02


@dataclass(frozen=True)
class Dimer:
    """Two molecules at rest beside each other.

    Attributes:
        name: of both.
        parts: the monomers with hydrogens.
        positions: ``[n_atoms, 3]``, Angstrom, the first monomer first.
    """

    name: str
    parts: tuple[Chem.Mol, Chem.Mol]
    positions: Array

    @property
    def mol(self) -> Chem.Mol:
        """Both as one molecule."""
        return joined(self.parts)

    def contact(self) -> Array:
        """Vector ``[3]`` between the closest atoms, from the first to the second monomer."""
        n = self.parts[0].GetNumAtoms()
        distances = cdist(self.positions[:n], self.positions[n:])
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        return self.positions[n + j] - self.positions[i]

    def moved(self, factors: Array) -> Array:
        """Positions ``[k, n_atoms, 3]`` with the closest contact at these multiples of its length."""
        shift = np.zeros_like(self.positions)
        shift[self.parts[0].GetNumAtoms() :] = self.contact()
        return self.positions + (factors[:, None, None] - 1) * shift

    def interaction(self, energies: Energies, x: Array) -> Array:
        """Energies ``[k]`` above those of the monomers, kcal/mol."""
        n = self.parts[0].GetNumAtoms()
        alone = [energies(part, x[:1, rows]) for part, rows in zip(self.parts, (slice(n), slice(n, None)), strict=True)]
        return energies(self.mol, x) - sum(alone)


def joined(parts: tuple[Chem.Mol, Chem.Mol]) -> Chem.Mol:
    """Two molecules as one."""
    both = Chem.CombineMols(*parts)
    Chem.SanitizeMol(both)  # MMFF94s wants to know the rings
    return both


def monomer(name: str) -> Chem.Mol:
    """A molecule with hydrogens and one geometry.

    Raises:
        DataError: it is a test molecule.
    """
    refuse_test_molecule(MONOMERS[name])
    mol = Chem.AddHs(Chem.MolFromSmiles(MONOMERS[name]))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    return mol


def arrangements(parts: tuple[Chem.Mol, Chem.Mol]) -> list[Array]:
    """Starting points ``[n_atoms, 3]``: the lowest distinct MMFF94s minima from random orientations of the monomers."""
    a, b = (mol.GetConformer().GetPositions() for mol in parts)
    a, b, rng = a - a.mean(0), b - b.mean(0), np.random.default_rng(0)
    starts = []
    for _ in range(ORIENTATIONS):
        turned, direction = Rotation.random(rng=rng).apply(b), rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        # Moved out until the closest atoms are 2.5 Angstrom apart.
        away = next(r for r in np.arange(1, 20, 0.1) if cdist(a, turned + r * direction).min() > 2.5)
        starts.append(np.concatenate([a, turned + away * direction]))
    mol = with_conformers(joined(parts), list(torch.from_numpy(np.stack(starts))))
    settings = {"numThreads": 1, "maxIters": 2000, "mmffVariant": "MMFF94s"}
    energies = [e for _, e in MMFFOptimizeMoleculeConfs(mol, ignoreInterfragInteractions=False, **settings)]
    kept: list[int] = []
    for k in map(int, np.argsort(energies)):
        if not kept or energies[k] - energies[kept[-1]] > DISTINCT:
            kept.append(k)
    return [mol.GetConformer(k).GetPositions() for k in kept[:RELAXED]]


def equilibrium(first: str, second: str, teacher: Engine) -> Dimer:
    """The lowest of the arrangements that the teacher relaxes."""
    parts = monomer(first), monomer(second)
    mol, found = joined(parts), []
    for start in arrangements(parts):
        try:
            found.append(teacher.minimum(numbers(mol), start, Chem.GetFormalCharge(mol), FMAX))
        except LabellingError as error:
            print(f"{first} + {second}: {error}", flush=True)
    return Dimer(f"{first} + {second}", parts, min(found, key=lambda label: label.energy).positions)


def dimers(pairs: tuple[tuple[str, str], ...], teacher: Engine, path: Path) -> list[Dimer]:
    """All dimers, those whose geometry is kept in a file and those that are new."""
    known: dict[str, Array] = dict(np.load(path)) if path.exists() else {}
    out = []
    for first, second in pairs:
        name = f"{first} + {second}"
        if name not in known:
            known[name] = equilibrium(first, second, teacher).positions
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, **known)
            print(name, flush=True)
        out.append(Dimer(name, (monomer(first), monomer(second)), known[name]))
    return out


def deepest_fall(energies: Array) -> float:
    """The largest fall of the energy below an earlier value along a path, ``[k]``; 0 where it only rises."""
    return float(np.max(np.maximum.accumulate(energies) - energies))


def measure(dimer: Dimer, methods: dict[str, Energies]) -> list[dict[str, Any]]:
    """One row a method."""
    scans = {name: dimer.interaction(energies, dimer.moved(FACTORS)) for name, energies in methods.items()}
    inside = COMPRESSION[COMPRESSION <= HOLE_FROM + 1e-9]
    far = dimer.moved(np.array([1 + FAR / np.linalg.norm(dimer.contact())]))
    return [
        {
            "dimer": dimer.name,
            "contact_A": float(np.linalg.norm(dimer.contact())),
            "method": name,
            "interaction_mae_kcal_mol": float(np.abs(scan - scans["teacher"]).mean()),
            "at_equilibrium_kcal_mol": float(scan[FACTORS == 1.0][0]),
            "teacher_at_equilibrium_kcal_mol": float(scans["teacher"][FACTORS == 1.0][0]),
            "fall_on_compression_kcal_mol": deepest_fall(dimer.interaction(methods[name], dimer.moved(inside))),
            "far_apart_kcal_mol": float(dimer.interaction(methods[name], far)[0]),
        }
        for name, scan in scans.items()
    ]


def draw(found: list[Dimer], methods: dict[str, Energies], path: Path) -> None:
    """Interaction energies from 0.6 to 2.0 of the distance, cut off at 30 kcal/mol."""
    figure, axes = plt.subplots(-(-len(found) // 5), 5, figsize=(13, 2.3 * -(-len(found) // 5)), layout="constrained")
    factors = np.unique(np.concatenate([COMPRESSION, FACTORS]))
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, dimer in zip(axes.flat, found, strict=False):
        lowest = 0.0
        for name, energies in methods.items():
            scan = dimer.interaction(energies, dimer.moved(factors))
            width = 2.2 if name in ("teacher", "ours") else 1.0
            axis.plot(factors, scan, color=COLORS[name], linewidth=width, label=name)
            lowest = min(lowest, float(scan[factors >= HOLE_FROM].min()))
        axis.set_ylim(1.3 * lowest - 1, max(10.0, -lowest))
        axis.axhline(0, color="#e5e7eb", linewidth=0.8, zorder=0)
        axis.set_title(dimer.name, fontsize=8)
        axis.tick_params(labelsize=7)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel("closest contact / that of the minimum", fontsize=9)
    figure.supylabel("interaction energy (kcal/mol)", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--limit", type=int, default=None, help="only the first few dimers")
    parser.add_argument("--dimers", type=Path, default=Path("runs/accuracy/dimers.npz"))
    options = parser.parse_args()
    judges = load(options)
    methods = judges.energies()
    found = dimers(DIMERS[: options.limit], judges.teacher, options.dimers)
    rows = [row for dimer in found for row in measure(dimer, methods)]
    write_csv(options.results / "dimers.csv", rows)
    lines: list[tuple[str, str, float, int]] = []
    for name in methods:
        own = [r for r in rows if r["method"] == name]
        if name != "teacher":
            depth = [abs(r["at_equilibrium_kcal_mol"] - r["teacher_at_equilibrium_kcal_mol"]) for r in own]
            errors = [r["interaction_mae_kcal_mol"] for r in own]
            lines.append((name, "interaction energy MAE, 0.85-2.0 (kcal/mol)", *mean(errors)))
            lines.append((name, "interaction energy MAE, at 1.0 (kcal/mol)", *mean(depth)))
        holes = sum(r["fall_on_compression_kcal_mol"] > HOLE for r in own)
        lines.append((name, "dimers with a hole at 0.60-0.85", float(holes), len(own)))
        far = max(abs(r["far_apart_kcal_mol"]) for r in own)
        lines.append((name, "largest interaction far apart (kcal/mol)", far, len(own)))
    update_summary(options.results, "dimers", lines)
    draw(found, methods, options.results / "dimers.png")


if __name__ == "__main__":
    main()
