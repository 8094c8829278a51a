"""Do bonds that change in dynamics stay changed? The molecules of ``stability.py`` to which it happened, once more.

    python benchmarks/dynamics/changed_bonds.py --data datasets/organic.h5

Four copies of each such molecule go through the same dynamics with other random numbers, and are relaxed at the end:
a bond that was made or broken is there or gone then, one that only vibrated is as at the start.
``results/changed_bonds.csv`` has a row a molecule.

| column | meaning |
|---|---|
| changed | copies with a bond beyond the limits of ``stability.py`` at any record |
| records_changed | records of all copies that show one |
| changed_at_end | copies whose bonds are not those of the start when relaxed at the end |
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from batched_dynamics import BondCheck, Dynamics
from stability import ENSEMBLES, RECORD_EVERY, TIMESTEP_FS, equilibrate, read_rows

from consistent_calc import ConsistentModel, StructureBatch, load_model, relax
from consistent_calc.data import Dataset, Split, Store

RESULTS = Path(__file__).parent / "results"
COPIES = 4


def again(model: ConsistentModel, data: Dataset, row: dict[str, str]) -> dict[str, str | int]:
    """The dynamics of one molecule."""
    structure = data.batch([int((data.molecule == int(row["molecule"])).nonzero()[0][0])])[0]
    start = relax(model, StructureBatch.concatenate([structure] * COPIES), fmax=0.01).batch
    temperature, friction = ENSEMBLES[row["ensemble"]]
    ps = float(row["ps"])
    dynamics, bonds = Dynamics(model, start, TIMESTEP_FS, seed=2), BondCheck(start)
    equilibrate(dynamics, row["ensemble"], ps)
    seen = []
    for _ in range(round(ps * 1000 / TIMESTEP_FS) // RECORD_EVERY):
        dynamics.run(RECORD_EVERY, temperature, friction)
        seen.append(bonds.changed(dynamics.positions))
    end = relax(model, start.with_positions(dynamics.positions), fmax=0.01)
    changed = torch.stack(seen)
    return {
        **{key: row[key] for key in ("weights", "ps", "ensemble", "molecule", "smiles")},
        "copies": COPIES,
        "changed": int(changed.any(dim=0).sum()),
        "records": changed.numel(),
        "records_changed": int(changed.sum()),
        "changed_at_end": int(bonds.changed(end.batch.positions).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    options = parser.parse_args()
    data = Store(options.data).read(Split.VALIDATION)
    model = load_model()
    rows = [again(model, data, row) for row in read_rows(RESULTS / "stability.csv") if row["bonds_changed_ps"]]
    if not rows:
        print("No molecule has changed its bonds.")
        return
    with (RESULTS / "changed_bonds.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
