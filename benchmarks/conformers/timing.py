"""Time of the generator as a ratio to ETKDGv3, MMFF94s and the same relaxation, molecules one by one and together.

    python benchmarks/conformers/timing.py --qm9 datasets/qm9.h5

100 QM9 molecules of the benchmark and 15 drug-like ones, spread over their lists; those that ETKDG cannot embed are
left out. Ten samples a molecule, processor time of one thread. ``together`` is the way of
:func:`consistent_calc.generate_many`: molecules share their batches. Writes ``results/timing.csv``.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from methods import OPTIONS, etkdg, mmff, with_positions
from molecule_sets import drug_like_tasks, qm9_tasks
from rdkit import RDLogger

from consistent_calc import ConsistentModel, StructureBatch, load_model, relax
from consistent_calc.conformers import MoleculeInput, read_molecules
from consistent_calc.conformers.stream import stream
from consistent_calc.errors import ConformerError


def generator(entries: Sequence[MoleculeInput], model: ConsistentModel) -> None:
    """The package's, to the end."""
    for result in stream(model, entries, OPTIONS):
        assert result.failure is None, result.failure


def force_field(entries: Sequence[MoleculeInput], model: ConsistentModel) -> None:
    """ETKDGv3 and MMFF94s, then the model."""
    found = [with_positions(entry.mol, mmff(entry.mol, etkdg(entry, 0)).final) for entry in entries]
    relax(model, StructureBatch.from_rdkit(found), fmax=OPTIONS.fmax)


def usable(molecules: Sequence[MoleculeInput]) -> list[MoleculeInput]:
    """Those that the force field can start from."""
    out = []
    for entry in molecules:
        try:
            mmff(entry.mol, etkdg(entry, 0))
        except ConformerError:
            continue
        out.append(entry)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qm9", type=Path, default=Path("datasets/qm9.h5"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "timing.csv")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    torch.set_num_threads(1)
    model = load_model()
    sets = {
        "qm9": [task.mol for task in qm9_tasks(arguments.qm9, 100, 0)],
        "drug_like": [task.smiles for task in drug_like_tasks(15, 0)],
    }
    rows = []
    for name, sources in sets.items():
        entries = usable([next(read_molecules(source, elements=model.elements)) for source in sources])
        generator(entries[:1], model)  # kernels are compiled
        for way, groups in (("one by one", [[entry] for entry in entries]), ("together", [entries])):
            seconds = []
            for work in (force_field, generator):
                begin = time.process_time()
                for group in groups:
                    work(group, model)
                seconds.append((time.process_time() - begin) / len(entries))
            row = (name, way, *(f"{x:.3g}" for x in (*seconds, seconds[1] / seconds[0])), len(entries))
            rows.append(row)
            print(*row, flush=True)
    with arguments.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("set", "molecules", "mmff_ours_s", "seeds_s", "ratio", "n"))
        table.writerows(rows)


if __name__ == "__main__":
    main()
