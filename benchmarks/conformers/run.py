"""Conformers by seven methods, judged by DFT structures, GFN2-xTB and our own level.

    pip install posebusters tblite; apt-get install xtb
    python benchmarks/conformers/run.py --qm9 datasets/qm9.h5              # all: some days of one core
    python benchmarks/conformers/run.py --qm9 datasets/qm9.h5 --seeds 1 --limit qm9=100 --limit drug_like=30
    python benchmarks/conformers/run.py --methods seeds noise                  # of a changed generator
    python benchmarks/conformers/run.py --tables-only

Sets: ``qm9`` (500 molecules of the test buckets, with their B3LYP structures) and ``drug_like`` (``drug_like.smi``).
Every molecule and seed leaves one line in ``runs/conformers/``; interrupted, the run goes on where it stopped. Lines of
the same molecule and seed with other methods complete each other, the last one counts. With a limit, molecules are
taken evenly from the whole set. The methods are told in ``methods.py``, the numbers in
``measure.py`` and ``tables.py``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from methods import METHODS  # noqa: E402
from molecule_sets import N_QM9, Task, drug_like_tasks, qm9_tasks  # noqa: E402
from tables import read_records, write_tables  # noqa: E402

#: Samples that the method gfn2 relaxes, where it runs at all.
GFN2_SAMPLES = {"qm9": 10, "drug_like": 2}


@lru_cache(maxsize=1)
def tools(checkpoint: Path | None) -> tuple[Any, Any, Any]:
    """Model and engines, once a process."""
    import torch

    from consistent_calc import load_model
    from consistent_calc.labelling.engine import new_engine
    from consistent_calc.labelling.names import EngineName

    torch.set_num_threads(1)
    return load_model(checkpoint), new_engine(EngineName.xtb), new_engine(EngineName.tblite)


def work(task: Task, wanted: tuple[str, ...], checkpoint: Path | None) -> dict[str, Any]:
    """The wanted methods for one molecule, and their numbers."""
    from measure import Judges, measure
    from methods import run_methods

    from consistent_calc.conformers import read_molecules

    model, gfn2, single = tools(checkpoint)
    source = task.smiles if task.mol is None else task.mol
    entry = next(read_molecules(source, elements=model.elements))
    record = {"key": task.key, "set": task.set, "name": task.name, "smiles": task.smiles, "seed": task.seed}
    if entry.failure is not None:
        return record | {"input_failure": entry.failure.reason}
    n_gfn2 = GFN2_SAMPLES[task.set] if task.judged else 0
    outcomes = run_methods(entry, task.seed, wanted, model, gfn2, n_gfn2)
    numbers = measure(entry.mol, task.smiles, outcomes, Judges(model, gfn2, single, task.judged), task.reference)
    return record | {"n_atoms": entry.mol.GetNumAtoms(), "methods": numbers}


def missing(record: dict[str, Any], task: Task, wanted: Sequence[str]) -> set[str]:
    """Methods that a record lacks; GFN2 is not run for every molecule."""
    if "input_failure" in record:
        return set()
    return set(wanted) - set(record["methods"]) - (set() if task.judged else {"gfn2"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qm9", type=Path, default=Path("datasets/qm9.h5"))
    parser.add_argument("--runs", type=Path, default=Path("runs/conformers"))
    parser.add_argument("--checkpoint", type=Path, default=None, help="None is the shipped one")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", action="append", default=[], help="SET=N, molecules of a set")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--tables-only", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments.runs.mkdir(parents=True, exist_ok=True)
    log = arguments.runs / "records.jsonl"
    if not arguments.tables_only:
        limits = {"qm9": N_QM9, "drug_like": 10**6} | {k: int(n) for k, n in (x.split("=") for x in arguments.limit)}
        done = {record["key"]: record for record in read_records(log)} if log.exists() else {}
        tasks = [
            t
            for seed in range(arguments.seeds)
            for t in (*qm9_tasks(arguments.qm9, limits["qm9"], seed), *drug_like_tasks(limits["drug_like"], seed))
            if t.key not in done or missing(done[t.key], t, arguments.methods)
        ]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.workers, context) as pool, log.open("a") as file:
            futures = {pool.submit(work, t, tuple(arguments.methods), arguments.checkpoint): t for t in tasks}
            for k, future in enumerate(as_completed(futures)):
                task = futures[future]
                if future.exception():
                    print(f"{task.key}: {future.exception()!r}", flush=True)
                    continue
                file.write(json.dumps(future.result()) + "\n")
                file.flush()
                print(time.strftime("%H:%M:%S"), f"{k + 1} of {len(tasks)}", task.key, flush=True)
    write_tables(log, arguments.results)


if __name__ == "__main__":
    main()
