"""Some 1,000 structures for true DFT: small molecules, at and away from their minima.

    python benchmarks/data/dft_structures.py datasets/tiny.h5 datasets/organic.h5 -o datasets/dft_structures.h5
    consistent-calc label datasets/dft_structures.h5 -o datasets/dft.h5 --engine pyscf --method wB97X-D3BJ/def2-SVP
    python benchmarks/accuracy/teacher_and_dft.py --dft datasets/dft.h5

Molecules of the training and validation sides with at most 12 atoms, two random conformations of each; those of both
stores in turn, until there are enough. The level that the teacher was fitted to takes ten times as long:

    python benchmarks/data/dft_structures.py datasets/tiny.h5 --heavy 3 -n 200 -o datasets/dft_small.h5
    consistent-calc label datasets/dft_small.h5 -o datasets/dft_tzvpp.h5 --engine pyscf --method wB97M-D3BJ/def2-TZVPP
"""

from __future__ import annotations

import argparse
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consistent_calc.data import Dataset, MoleculeRecord, Split, Store, StoreWriter

#: A hybrid functional takes the fourth power of this.
MAX_ATOMS = 12
CONFORMATIONS = 2


def affordable(data: Dataset, heavy: int) -> NDArray[np.int64]:
    """Molecules of at most :data:`MAX_ATOMS` atoms, and so many other than hydrogen."""
    owner = np.repeat(np.arange(data.n_molecules), sizes := np.diff(data.atom_offset))
    n_heavy = np.bincount(owner[data.numbers > 1], minlength=data.n_molecules)
    return np.flatnonzero((sizes <= MAX_ATOMS) & (n_heavy <= heavy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("-n", type=int, default=1000, help="structures")
    parser.add_argument("--heavy", type=int, default=MAX_ATOMS, help="atoms other than hydrogen, at most")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    data = [Store(path).read(Split.TRAIN, Split.VALIDATION) for path in options.stores]
    orders = [[(d, m) for m in rng.permutation(affordable(d, options.heavy))] for d in data]
    in_turn = [found for turn in zip_longest(*orders) for found in turn if found is not None]
    provenance = "no labels; benchmarks/data/dft_structures.py"
    with StoreWriter(
        options.output, level="none", provenance=provenance, licence="MIT", kinds={0: "as given"}
    ) as writer:
        seen: set[str] = set()
        for d, molecule in in_turn:
            if writer.n_conformations >= options.n:
                break
            record = MoleculeRecord.from_dataset(d, int(molecule))
            if record.smiles in seen:
                continue
            seen.add(record.smiles)
            rows = rng.permutation(len(record.positions))[:CONFORMATIONS]
            writer.add(record.at(record.positions[rows]))
    print(f"{writer.n_molecules} molecules, {writer.n_conformations} structures")


if __name__ == "__main__":
    main()
