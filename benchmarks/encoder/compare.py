"""Which encoder learns most in a given time? Features up to l = 1 (Cartesian vectors) or l = 2 (e3nn harmonics).

    python benchmarks/encoder/compare.py --data datasets/organic.h5 [--steps 800]

The candidates train on the same batches in turn, step by step in one process, so that a busy machine slows all alike.
After every 100 steps the force and relative-energy errors on the same validation sample are written with the seconds
each candidate has used so far; compare rows of equal seconds, not of equal steps.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch

from consistent_calc.data.batching import BatchStream
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store
from consistent_calc.model import ConsistentModel, ModelConfig
from consistent_calc.train.batches import energy_batch
from consistent_calc.train.configuration import Weights
from consistent_calc.train.evaluation import evaluate_energy
from consistent_calc.train.objective import Objective
from consistent_calc.train.references import fit_references

CANDIDATES = {
    "l=1, 128 vectors (PaiNN)": (128, 128),
    "l=1, 64 vectors": (128, 64),
    "l=2, 64 vectors, 32 tensors": (128, 64, 32),
}


class Candidate:
    """A model on its way, with the time it has used."""

    def __init__(self, channels: tuple[int, ...], elements: tuple[int, ...], level: str, references: torch.Tensor):
        torch.manual_seed(0)
        self.model = ConsistentModel(ModelConfig(elements=elements, levels=(level,), channels=channels))
        self.model.references.copy_(references)
        self.objective = Objective(self.model, Weights())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.98))
        self.seconds = 0.0

    def step(self, parts: list, rate: float) -> None:
        begin = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.total(self.objective.energy_losses(energy_batch(parts, self.model))).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        self.seconds += time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--atoms", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "summary.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, validation = (Store(arguments.data).read(side) for side in (Split.TRAIN, Split.VALIDATION))
    elements = tuple(sorted({int(z) for z in train.numbers}))
    references = fit_references([train], (train.level,), elements)
    candidates = {name: Candidate(c, elements, train.level, references) for name, c in CANDIDATES.items()}
    stream = BatchStream(train.n_atoms, arguments.atoms, seed=0)
    rows = []
    for step in range(1, arguments.steps + 1):
        parts = [train.batch(next(stream))]
        # Warm up over 50 steps, then fall linearly, so that the last row is a finished training.
        rate = 1e-3 * min(1.0, step / 50) * (1 - 0.98 * step / arguments.steps)
        for candidate in candidates.values():
            candidate.step(parts, rate)
        if step % 100 == 0:
            for name, candidate in candidates.items():
                figures = evaluate_energy(candidate.model, validation, limit=200).summary()
                rows.append(
                    {
                        "encoder": name,
                        "parameters": sum(p.numel() for p in candidate.model.encoder.parameters()),
                        "step": step,
                        "seconds": round(candidate.seconds, 1),
                        "force_mae_eV_A": round(figures["force_mae_eV_A"], 4),
                        "relative_energy_mae_kcal_mol": round(figures["relative_energy_mae_kcal_mol"], 3),
                    }
                )
                print(rows[-1], flush=True)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            with arguments.output.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0].keys())
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
