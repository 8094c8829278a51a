"""Conformers of 100 test molecules: results, stereochemistry, strain and time.

    python benchmarks/conformers/quick.py [--n 10]
    python benchmarks/conformers/quick.py --n 1 --method noise --output benchmarks/conformers/results/noise.json

``test_molecules.smi`` lists the molecules, all of test buckets (95-99). Stereochemistry is checked here once more,
independently of the generator: the SMILES perceived from each 3D structure must be the input's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from measure import same_stereo
from methods import positions

from consistent_calc import load_model
from consistent_calc.conformers import generate_many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--molecules", type=Path, default=Path(__file__).parent / "test_molecules.smi")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--method", default="seeds", help="seeds, noise or denoising")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "test_molecules.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.checkpoint)
    failures: Counter[str] = Counter()
    fates: Counter[str] = Counter()
    gaps, moved, stereo, conformers, total = [], [], [], 0, 0
    begin = time.perf_counter()
    for result in generate_many(arguments.molecules, arguments.n, model=model, method=arguments.method):
        total += 1
        if result.ensemble is None:
            failures[result.failure.reason] += 1
            print(result.smiles, result.failure, flush=True)
            continue
        conformers += len(result.ensemble)
        fates.update(result.ensemble.counts)
        gaps.extend(result.ensemble.gaps.tolist())
        moved.extend(result.ensemble.moved.tolist())
        stereo.extend(same_stereo(result.ensemble.mol, result.ensemble.smiles, positions(result.ensemble.mol)))
    seconds = time.perf_counter() - begin
    results = {
        "molecules": total,
        "with_result": total - sum(failures.values()),
        "failures": dict(failures),
        "conformers": conformers,
        "stereo_kept": sum(stereo),
        "samples": dict(fates),
        "relaxed_by_kcal_mol_median": float(np.median(gaps)),
        "moved_A_median": float(np.median(moved)),
        "seconds": seconds,
        "seconds_per_conformer": seconds / max(conformers, 1),
        "seconds_per_sample": seconds / max(fates["embedded"] + fates["sampled"], 1),
        "threads": arguments.threads,
    }
    print(json.dumps(results, indent=2))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
