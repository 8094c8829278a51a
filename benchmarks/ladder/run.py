"""Which network learns most at equal cost? Width, depth, degrees and cutoff, one changed at a time.

    python benchmarks/ladder/run.py --data datasets/organic.h5 [--minutes 15] [--only base wide]

Every candidate trains the energy task from scratch for the same time on one core, by the package's own trainer, and is
then judged on the same validation molecules. Stopped, it goes on where it was when started again; several may run at
once with ``--only``, if each has a core of its own. What is trained is timed at the end, energies and forces on one
core, all in one run: start it once more for times of a quiet machine. ``results/ladder.csv`` has a row a candidate,
``results/ladder.png`` the errors against the times.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch
from ase.io import read

from consistent_calc import StructureBatch, load_model
from consistent_calc.data import Split, Store
from consistent_calc.train.configuration import Architecture, DataSource, Schedule, TrainingConfig, Weights
from consistent_calc.train.evaluation import evaluate_energy, sample_molecules
from consistent_calc.train.trainer import Trainer

CANDIDATES = {
    "base": Architecture(),
    "narrow": Architecture(channels=(64, 32, 16)),
    "wide": Architecture(channels=(192, 96, 48)),
    "2 layers": Architecture(n_layers=2),
    "4 layers": Architecture(n_layers=4),
    "vectors only": Architecture(channels=(128, 96)),
    "up to l = 3": Architecture(channels=(128, 64, 32, 16)),
    "cutoff 4": Architecture(cutoff=4.0, mean_neighbors=12.0),
    "cutoff 6": Architecture(cutoff=6.0, mean_neighbors=28.0),
}
RESULTS = Path(__file__).parent / "results"
MOLECULES = Path(__file__).parents[1] / "speed" / "molecules.xyz"
#: Molecules of the validation side that all are judged on, and the size of a batch that is timed.
SAMPLE, BATCH = 1500, 64


def train(name: str, architecture: Architecture, options: argparse.Namespace) -> dict[str, str]:
    """The row of a candidate; goes on with a run that was stopped."""
    config = TrainingConfig(
        output=str(folder(name, options)),
        energy=(DataSource(str(options.data.resolve()), atoms=800),),
        model=architecture,
        weights=Weights(energy=2.0, structure=0.0),
        schedule=Schedule(
            hours=options.minutes / 60,
            warmup_steps=200,
            clip_norm=2.0,
            ema_decay=0.995,
            validation_minutes=1e6,
            validation_structures=1,
            checkpoint_minutes=2,
        ),
        compile=True,
        threads=1,
    )
    torch._dynamo.reset()  # it compiles a function for so many networks only
    trainer = Trainer(config, Path.cwd())
    model = load_model(trainer.run())
    if trainer.progress < 1:
        raise SystemExit(f"{name} was stopped; start again to go on.")
    data = Store(options.data).read(Split.VALIDATION)
    errors = evaluate_energy(model, data, indices=sample_molecules(data, SAMPLE)).summary()
    return {
        "candidate": name,
        "channels": " ".join(map(str, architecture.channels)),
        "layers": str(architecture.n_layers),
        "cutoff_A": f"{architecture.cutoff:g}",
        "weights": str(sum(p.numel() for m in (model.encoder, model.energy_head) for p in m.parameters())),
        "minutes": f"{options.minutes:g}",
        "steps": str(trainer.step),
        "force_mae_eV_A": f"{errors['force_mae_eV_A']:.4f}",
        "relative_energy_mae_kcal_mol": f"{errors['relative_energy_mae_kcal_mol']:.3f}",
    }


def folder(name: str, options: argparse.Namespace) -> Path:
    """Where a candidate is trained."""
    return (options.runs / name.replace(" ", "_")).resolve()


def times(path: Path) -> dict[str, str]:
    """The columns of the time of a candidate."""
    model = load_model(path / "model.safetensors")
    one = StructureBatch.from_ase(next(a for a in read(MOLECULES, ":") if len(a) == 21))
    many = StructureBatch.concatenate([one] * BATCH)
    return {
        "ms_one_molecule": f"{milliseconds(model, one):.2f}",
        "ms_a_molecule_in_batch": f"{milliseconds(model, many) / BATCH:.2f}",
    }


def milliseconds(model: torch.nn.Module, batch: StructureBatch, repeats: int = 20) -> float:
    """The shortest processor time of energies and forces."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        model.predict(batch)
        times.append(time.process_time() - begin)
    return 1e3 * min(times)


def read_rows() -> list[dict[str, str]]:
    """What there is so far."""
    path = RESULTS / "ladder.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(rows: list[dict[str, str]]) -> None:
    """The table, in the order of the candidates."""
    write_table("ladder.csv", sorted(rows, key=lambda row: list(CANDIDATES).index(row["candidate"])))


def write_table(name: str, rows: list[dict[str, str]]) -> None:
    """A table of results."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="") as file:
        # A new row has no times yet.
        table = csv.DictWriter(file, max(map(list, rows), key=len), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def draw(rows: list[dict[str, str]]) -> None:
    """The errors against the times."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    titles = {"ms_one_molecule": "one molecule of 21 atoms", "ms_a_molecule_in_batch": f"one of a batch of {BATCH}"}
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        for row in rows:
            x, y = float(row[column]), 1000 * float(row["force_mae_eV_A"])
            axis.plot(x, y, "o", color="#d97706" if row["candidate"] == "base" else "#2563eb")
            axis.annotate(row["candidate"], (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
        axis.set_xlabel(f"energy and forces, {title} (ms)")
        axis.margins(0.15)
    axes[0].set_ylabel(f"force MAE after {rows[0]['minutes']} min (meV/Å)")
    figure.savefig(RESULTS / "ladder.png", dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--minutes", type=float, default=15.0, help="of training for each")
    parser.add_argument("--only", nargs="*", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--runs", type=Path, default=Path("runs/ladder"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        if any(row["candidate"] == name for row in read_rows()):
            continue
        new = train(name, CANDIDATES[name], options)
        # Read again: another process may have written its row meanwhile.
        write_rows([*read_rows(), new])
        print(new, flush=True)
    rows = [row | times(folder(row["candidate"], options)) for row in read_rows()]
    write_rows(rows)
    draw(rows)


if __name__ == "__main__":
    main()
