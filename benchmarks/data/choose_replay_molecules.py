"""Chooses the molecules on which fine-tuning holds a model to what it knew: training molecules of datasets/organic.h5.

python benchmarks/data/choose_replay_molecules.py        # writes consistent_calc/data/replay_molecules.smi

In random order, a molecule is taken if it has at most 35 atoms and brings an element or a total charge of which fewer
than QUOTA molecules were taken before.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from consistent_calc.data import Split, Store

QUOTA = 20
MAX_ATOMS = 35
SOURCE, TARGET = Path("datasets/organic.h5"), Path("consistent_calc/data/replay_molecules.smi")


def main() -> None:
    data = Store(SOURCE).read(Split.TRAIN)
    counts: Counter[str] = Counter()
    chosen: dict[str, None] = {}
    for m in np.random.default_rng(0).permutation(data.n_molecules):
        numbers = data.numbers[data.atom_offset[m] : data.atom_offset[m + 1]]
        features = {f"Z={z}" for z in np.unique(numbers)} | {f"q={data.charge[m]}"}
        # Hydrogen, carbon and neutrality come with everything.
        rare = [f for f in features - {"Z=1", "Z=6", "q=0"} if counts[f] < QUOTA]
        if len(numbers) <= MAX_ATOMS and rare:
            counts.update(features)
            chosen[str(data.smiles[m])] = None
    TARGET.write_text("\n".join(chosen) + "\n")
    print(len(chosen), "molecules", dict(counts))


if __name__ == "__main__":
    main()
