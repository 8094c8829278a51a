"""The consistency experiment: trains all variants, evaluates them, and writes the tables.

    python benchmarks/consistency/run.py                      # after data.py; some hours on two cores
    python benchmarks/consistency/run.py --tables-only        # tables and page from the results that exist

Interrupted at any point, it goes on where it stopped. What it does is told by ``design.py`` (data, model, stages,
variants), ``testset.py`` and ``evaluate.py`` (what is measured), ``controls.py`` and ``tables.py``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from design import Run, force_settings, runs_of_seed  # noqa: E402

N_MOLECULES = 200
N_CONTROL = 60


def train_and_evaluate(name: str, run: Run | tuple[str, int], arguments: argparse.Namespace) -> str:
    """One run of stage 1 (given by forces and seed), 2 or 3, in a process of its own."""
    import torch
    from controls import descent, relaxation
    from design import stage_1, stage_2, stage_3
    from evaluate import evaluate, save
    from testset import read_molecules

    from consistent_calc.checkpoint import load_model
    from consistent_calc.data import Split
    from consistent_calc.labelling.engine import new_engine
    from consistent_calc.labelling.names import EngineName
    from consistent_calc.train.trainer import Trainer

    torch.set_num_threads(1)
    folder, data = arguments.runs.resolve(), arguments.data.resolve()
    if isinstance(run, tuple):
        config = stage_1(folder, data, *run)
    else:
        config = stage_3(run, folder, data) if run.fine_tuning else stage_2(run, folder, data)
    start = time.monotonic()
    output = Path(config.output)
    if not (output / "done.json").exists():
        if config.start is not None and not (Path(config.start).parent / "done.json").exists():
            raise RuntimeError(f"{config.start}, where it starts, is not finished")
        trainer = Trainer(config, folder)
        trainer.run()
        if trainer.progress < 1:
            raise RuntimeError(f"stopped by a signal at step {trainer.step}; start again to go on")
        record = {"steps": trainer.step, "seconds": round(trainer.seconds, 1)}
        (output / "done.json").write_text(json.dumps(record))
    if isinstance(run, tuple):
        return f"{name}: {time.monotonic() - start:.0f} s"
    model = load_model(output / "model")
    molecules = read_molecules(data, arguments.qm9, Split.TEST, N_MOLECULES)
    oracle = new_engine(EngineName.aimnet2, model_file=arguments.model_file)
    found = evaluate(model, molecules, oracle)
    if run.variant == "multitask" and run.seed < 3 and not run.fine_tuning:
        some = molecules[:N_CONTROL]
        save(output / "controls.npz", descent(model, some, oracle) | relaxation(model, some, oracle))
    save(output / "test.npz", found)
    return f"{name}: {time.monotonic() - start:.0f} s"


def work(todo: dict[str, Run | tuple[str, int]], arguments: argparse.Namespace) -> None:
    """Runs what has no results yet, two at a time; one that fails does not stop the others."""
    last = {n: "done.json" if isinstance(r, tuple) else "test.npz" for n, r in todo.items()}
    waiting = {n: r for n, r in todo.items() if not (arguments.runs / n / last[n]).exists()}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(train_and_evaluate, n, r, arguments): n for n, r in waiting.items()}
        for future in as_completed(futures):
            error = future.exception()
            line = f"{futures[future]} failed: {error!r}" if error else future.result()
            print(time.strftime("%H:%M:%S"), line, flush=True)


def write_labelled_step(arguments: argparse.Namespace) -> None:
    """The control that needs no model, into a folder of its own beside the runs."""
    from controls import labelled_step
    from design import NEWTON
    from evaluate import save
    from testset import read_molecules

    from consistent_calc.data import Split, Store

    path = arguments.runs / "labelled_none_0" / "controls.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = Store(arguments.data / f"at_pm6_{Split.TEST}.h5").read(Split.TEST)
        molecules = read_molecules(arguments.data, arguments.qm9, Split.TEST, N_MOLECULES)
        save(path, labelled_step(labels, molecules, NEWTON.max_step))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/consistency"))
    parser.add_argument("--qm9", type=Path, default=Path("datasets/qm9.h5"))
    parser.add_argument("--runs", type=Path, default=Path("runs/consistency"))
    parser.add_argument("--model-file", type=Path, default=Path("datasets/aimnet2/aimnet2_wb97m-d3_0.jpt"))
    parser.add_argument("--seeds", type=int, default=3, help="of every cell")
    parser.add_argument("--main-seeds", type=int, default=5, help="of the main comparison")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--tables-only", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if not arguments.tables_only:
        arguments.runs.mkdir(parents=True, exist_ok=True)
        for seed in range(max(arguments.seeds, arguments.main_seeds)):
            everything = seed < arguments.seeds
            settings = force_settings(arguments.data, everything=everything)
            work({f"stage1_{f}_{seed}": (f, seed) for f in settings}, arguments)
            runs = runs_of_seed(seed, arguments.data, everything=everything)
            work({r.name: r for r in runs if not r.fine_tuning}, arguments)
            work({r.name: r for r in runs if r.fine_tuning}, arguments)
    write_labelled_step(arguments)
    from tables import write_tables

    write_tables(arguments.runs, HERE / "results")


if __name__ == "__main__":
    main()
