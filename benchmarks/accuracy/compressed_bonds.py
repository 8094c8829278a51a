"""What the energy does when a bond is compressed: it must rise, all the way in.

    python benchmarks/accuracy/compressed_bonds.py

Bonds of small molecules, every kind that the shipped model knows, are shortened from 0.98 to 0.22 times the sum of the
covalent radii with the other atoms in place. For each kind of bond the molecule where the energy turns over first:
where it does (0: nowhere), how high the energy is there, and the lowest energy inside, above that of the bond at its
length (eV); with the short-range repulsion and for the network alone. Writes ``results/compressed_bonds.csv``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from consistent_calc import ConsistentModel, StructureBatch, load_model
from consistent_calc.elements import COVALENT_RADII
from consistent_calc.nn.repulsion import short_range_repulsion

MOLECULES = (
    "C CC C=C C#C CO CN CF CS CCl CBr CI CP N O S P F Cl Br N#N C#N C=O [C-]#[O+] NN OO SS NO CN=O CS(C)(=O)=O "
    "CP(=O)(O)O [H][H] c1ccccc1 CC(=O)O CC(=O)[O-] [NH4+] C[NH3+]"
).split()
RATIOS = np.arange(0.22, 1.0, 0.02)
#: From here outward the bond has its minimum.
BONDED = 0.75

Array = NDArray[np.float64]


def scan(model: ConsistentModel, mol: Chem.Mol, fixed: int, moved: int) -> tuple[Array, Array]:
    """Energies of a bond along :data:`RATIOS`, eV: of the model, and without its short-range repulsion."""
    x = torch.from_numpy(mol.GetConformer().GetPositions())
    direction = (x[moved] - x[fixed]) / (x[moved] - x[fixed]).norm()
    numbers = StructureBatch.from_rdkit(mol).numbers
    reach = COVALENT_RADII[int(numbers[fixed])] + COVALENT_RADII[int(numbers[moved])]
    structures = []
    for ratio in RATIOS:
        y = x.clone()
        y[moved] = x[fixed] + ratio * reach * direction
        structures.append(StructureBatch.from_rdkit(mol).with_positions(y))
    batch, neighbors, vectors, _ = model.prepare(StructureBatch.concatenate(structures), None)
    energy = model.predict(batch, forces=False).energy
    added, _ = short_range_repulsion(vectors, batch.numbers, neighbors.edges)
    bare = energy - torch.zeros_like(energy).index_add(0, batch.graph, added)
    return energy.numpy(), bare.numpy()


def turn(energies: Array) -> tuple[float, float, float]:
    """Ratio where the energy falls again on compression (0: nowhere), its height there, and the lowest one inside."""
    k = int(np.argmin(np.where(RATIOS > BONDED, energies, np.inf)))
    bottom = energies[k]
    while k > 0 and energies[k - 1] > energies[k]:
        k -= 1
    return (RATIOS[k] if k else 0.0), energies[k] - bottom, energies[: k + 1].min() - bottom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "compressed_bonds.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model()
    worst: dict[tuple[str, str], tuple[float, float, float, str]] = {}
    for smiles in MOLECULES:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        for bond in mol.GetBonds():
            # The atom with fewer bonds is moved.
            a, b = sorted((bond.GetBeginAtom(), bond.GetEndAtom()), key=lambda atom: -atom.GetDegree())
            kind = "-".join(sorted((a.GetSymbol(), b.GetSymbol())))
            for label, energies in zip(("model", "network"), scan(model, mol, a.GetIdx(), b.GetIdx()), strict=True):
                found = (*turn(energies), smiles)
                worst[kind, label] = max(worst.get((kind, label), found), found)
    rows = [(*key, *(f"{x:.3g}" for x in found[:3]), found[3]) for key, found in sorted(worst.items())]
    with arguments.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("bond", "energy_of", "turns_at", "height_eV", "lowest_inside_eV", "molecule"))
        table.writerows(rows)
    for label in ("network", "model"):
        turning = [float(row[4]) for row in rows if row[1] == label and row[2] != "0"]
        inside = f", lowest energy inside {min(turning):.2g} eV" if turning else ""
        print(f"{label}: {len(turning)} of {len(rows) // 2} kinds of bonds turn over{inside}")


if __name__ == "__main__":
    main()
