"""Times this package's neighbor list against ASE and vesin on the CPU: ``python benchmarks/neighbors/compare.py``.

Prints a table and writes ``benchmarks/neighbors/results/summary.csv``. ``bins`` is the plain-torch search that runs on
CUDA, timed on the CPU here; ``vesin`` is its raw output, unsorted, one call a structure.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.neighborlist import neighbor_list as ase_neighbor_list
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation
from vesin import NeighborList as VesinNeighborList

from consistent_calc.neighbors import neighbor_list
from consistent_calc.neighbors.binned import binned_pairs
from consistent_calc.structures import StructureBatch

CUTOFF = 5.0  # Angstrom
RESULTS = Path(__file__).parent / "results" / "summary.csv"
_VOLUME_OF_WATER = 29.9  # cubic Angstrom per molecule at 1 g/cc


def water_box(n_molecules: int, seed: int = 0) -> Atoms:
    """Randomly turned water molecules on a jittered lattice in a periodic cube, at 1 g/cc."""
    rng = np.random.default_rng(seed)
    side = (n_molecules * _VOLUME_OF_WATER) ** (1 / 3)
    n_sites = int(np.ceil(n_molecules ** (1 / 3) - 1e-9))
    sites = np.stack(np.meshgrid(*[np.arange(n_sites)] * 3), axis=-1).reshape(-1, 3)
    sites = rng.permutation(sites)[:n_molecules] * (side / n_sites)
    water = molecule("H2O")
    turned = np.einsum("mij,aj->mai", Rotation.random(n_molecules, random_state=seed).as_matrix(), water.positions)
    positions = turned + (sites + rng.uniform(-0.2, 0.2, sites.shape))[:, None]
    return Atoms(np.tile(water.numbers, n_molecules), positions.reshape(-1, 3), cell=[side] * 3, pbc=True)


def systems() -> dict[str, list[Atoms]]:
    """The structures, by name; a list is one batch."""
    large = molecule("C6H6") + molecule("CH3CH2NH2")[:6]
    large.positions[12:] += (0, 0, 4)
    return {
        "ethanol 9": [molecule("CH3CH2OH")],
        "open 256 x 18": [large] * 256,
        "water 999": [water_box(333)],
        "water 20001": [water_box(6667)],
    }


def milliseconds(action: Callable[[], Any], budget: float = 3.0) -> tuple[float, float]:
    """Median and minimum time of up to 30 calls within some seconds, after one that is not counted."""
    action()
    times: list[float] = []
    while not times or (len(times) < 30 and sum(times) < budget):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times), 1e3 * min(times)


def methods(images: list[Atoms]) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; all give receivers, neighbors and shifts."""
    batch = StructureBatch.from_ase(images)
    arrays = [(a.positions, a.cell.array, a.pbc) for a in images]
    vesin = VesinNeighborList(cutoff=CUTOFF, full_list=True)
    return {
        "ours": lambda: neighbor_list(batch, CUTOFF),
        "bins": lambda: binned_pairs(batch, CUTOFF),
        "vesin": lambda: [vesin.compute(*a, quantities="ijS") for a in arrays],
        "ase": lambda: [ase_neighbor_list("ijS", a, CUTOFF) for a in images],
    }


def main() -> None:
    """Runs everything."""
    table = Table(title=f"Neighbor lists, {CUTOFF:g} Angstrom, {torch.get_num_threads()} threads, CPU")
    for heading in ("system", "edges", "method", "median ms", "minimum ms", "minimum / ours"):
        table.add_column(heading, justify="left" if heading in ("system", "method") else "right")
    rows = []
    for name, images in systems().items():
        n_edges = neighbor_list(StructureBatch.from_ase(images), CUTOFF).edges.shape[1]
        ours = None
        for method, action in methods(images).items():
            median, minimum = milliseconds(action)
            ours = ours or minimum
            rows.append([name, n_edges, method, round(median, 3), round(minimum, 3), round(minimum / ours, 2)])
            table.add_row(*map(str, rows[-1]), end_section=method == "ase")
    Console().print(table)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "edges", "method", "median_ms", "minimum_ms", "minimum_ratio_to_ours"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
