"""Relative energies of the conformers of 50 drug-like validation molecules.

    python benchmarks/accuracy/conformer_energies.py --data datasets/organic.h5 [--checkpoint base] [--n 50]

Up to ten conformers of each are generated and relaxed by our model; all methods give single points on these geometries,
so errors of MMFF94s and GFN2-xTB include that the geometries are not their own minima. Molecules are those of the store
with two rotatable bonds or more and 15-40 heavy atoms, evenly spread over it. Relative energies have each molecule's
mean error taken off; a method "finds the lowest" if its lowest conformer is the teacher's, and the gap is how far its
lowest lies above the teacher's, by the teacher.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from judges import COLORS, Array, Energies, arguments, centred_errors, load, mean
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcNumRotatableBonds
from scipy.stats import spearmanr
from summary import update_summary, write_csv

from consistent_calc import generate_conformers
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store
from consistent_calc.errors import ConformerError, MoleculeInputError

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFORMERS = 10
#: Fewer conformers rank nothing.
FEWEST = 4


def drug_like(smiles: str) -> bool:
    """Whether a molecule is of the size of a drug and has something to rotate."""
    mol = Chem.MolFromSmiles(smiles)
    return mol is not None and 15 <= mol.GetNumAtoms() <= 40 and CalcNumRotatableBonds(mol) >= 2


def selected(store: Path, n: int) -> list[str]:
    """Validation molecules."""
    candidates = [str(s) for s in Store(store).read(Split.VALIDATION).smiles if drug_like(str(s))]
    return [candidates[i] for i in np.linspace(0, len(candidates) - 1, min(n, len(candidates))).astype(int)]


def measure(smiles: str, mol: Chem.Mol, methods: dict[str, Energies]) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """One row a method, and the energies of all."""
    x = np.stack([c.GetPositions() for c in mol.GetConformers()])
    found = {name: energies(mol, x) for name, energies in methods.items()}
    reference = found["teacher"]
    best = int(reference.argmin())
    rows = []
    for name, energies in found.items():
        if name == "teacher" or np.isnan(energies).any():
            continue
        rows.append(
            {
                "smiles": smiles,
                "conformers": len(x),
                "method": name,
                "relative_energy_mae_kcal_mol": float(np.abs(centred_errors(energies, reference)).mean()),
                "spearman": float(spearmanr(energies, reference).statistic),
                "finds_lowest": int(energies.argmin() == best),
                "gap_kcal_mol": float(reference[energies.argmin()] - reference[best]),
            }
        )
    return rows, found


def draw(found: list[dict[str, Array]], path: Path) -> None:
    """Energies of all conformers against the teacher's, each molecule's means taken off."""
    names = [name for name in COLORS if name != "teacher"]
    figure, axes = plt.subplots(1, len(names), figsize=(10, 3.6), sharex=True, sharey=True, layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        for energies in found:
            x, y = energies["teacher"], energies[name]
            axis.plot(x - x.mean(), y - y.mean(), "o", color=COLORS[name], markersize=2.5)
        axis.axline((0, 0), slope=1, color="#111827", linewidth=0.8)
        axis.set_title(name, fontsize=10)
    axes[0].set_ylabel("relative energy (kcal/mol)")
    figure.supxlabel("relative energy of the teacher (kcal/mol)", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--n", type=int, default=50)
    options = parser.parse_args()
    judges = load(options)
    rows: list[dict[str, Any]] = []
    found: list[dict[str, Array]] = []
    for smiles in selected(options.data, options.n):
        try:
            ensemble = generate_conformers(smiles, n=CONFORMERS, model=judges.model)
        except (ConformerError, MoleculeInputError) as error:
            print(f"{smiles}: {error}", flush=True)
            continue
        if len(ensemble) < FEWEST:
            print(f"{smiles}: only {len(ensemble)} conformers", flush=True)
            continue
        new, energies = measure(smiles, ensemble.mol, judges.energies())
        rows += new
        found.append(energies)
        print(smiles, *(f"{r['method']} {r['relative_energy_mae_kcal_mol']:.2f}" for r in new), flush=True)
    write_csv(options.results / "conformer_energies.csv", rows)
    metrics = {
        "relative_energy_mae_kcal_mol": "relative energy MAE (kcal/mol)",
        "spearman": "Spearman correlation",
        "finds_lowest": "finds the lowest conformer (share)",
        "gap_kcal_mol": "lowest above the teacher's lowest (kcal/mol)",
    }
    lines: list[Any] = []
    for method in ("ours", "GFN2-xTB", "MMFF94s"):
        own = [r for r in rows if r["method"] == method]
        lines += [(method, label, *mean([r[key] for r in own])) for key, label in metrics.items()]
    update_summary(options.results, "conformers", lines)
    draw(found, options.results / "conformer_energies.png")


if __name__ == "__main__":
    main()
