"""Stability of dynamics: 100 validation molecules, 20 ps at constant energy (300 K) and 20 ps of Langevin at 600 K.

    python benchmarks/dynamics/stability.py --data datasets/organic.h5 [--checkpoint base] [--device cuda]
    python benchmarks/dynamics/stability.py --molecules 8 --picoseconds 1      # a trial

Many molecules are stepped at once (ASE steps one system at a time; ``batched_dynamics.py`` is tested against it), with
steps of 1 fs. The model works in float64 where energy must be conserved and in float32, its default, under the
thermostat. Each molecule is relaxed first; then come 1 ps with a strong thermostat and what is measured.
Chunks of molecules are appended to ``--output`` when done, and the one under way is saved every few hundred steps:
started again, the run goes on, and a finished one only draws its picture (where there is matplotlib). Rows of other
weights or lengths stay in the file, and are not mixed. Neither ASE nor RDKit is needed.

| column | meaning |
|---|---|
| survived | neither NaN nor a force above 100 eV/Angstrom |
| bonds_changed_ps | when a bond of the start grew beyond 1.5 times the covalent radii, or a new one came below 1.15 |
| drift_meV_atom_ps | slope of a linear fit of the total energy (constant energy only) |
| max_force_eV_A | largest force on an atom at any step |
| temperature_K | mean, of the kinetic energy |
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batched_dynamics import BondCheck, Dynamics
from numpy.typing import NDArray

from consistent_calc.checkpoint import DEFAULT, load_model, read_card
from consistent_calc.data.dataset import Dataset
from consistent_calc.data.split import Split
from consistent_calc.data.store import Store
from consistent_calc.model import ConsistentModel
from consistent_calc.relaxation import relax
from consistent_calc.structures import StructureBatch
from consistent_calc.units import BOLTZMANN

TIMESTEP_FS = 1.0
EQUILIBRATION_PS = 1.0
#: Temperature (Kelvin) and friction (1/fs) of each ensemble; without friction the energy is constant.
ENSEMBLES = {"NVE": (300.0, 0.0), "Langevin": (600.0, 0.002)}
PRECISION = {"NVE": torch.float64, "Langevin": torch.float32}
#: Friction of the equilibration, 1/fs.
STRONG_FRICTION = 0.02
#: Steps between two records, and records after which a chunk under way is saved.
RECORD_EVERY, SAVE_EVERY = 10, 50


def selected(data: Dataset, n: int) -> NDArray[np.int64]:
    """One conformation of each of ``n`` molecules, evenly spread, MMFF minima where there are any."""
    minima = next(kind for kind, name in data.kinds.items() if "minimum" in name)
    chosen = []
    for m in np.unique(np.linspace(0, data.n_molecules - 1, n).astype(int)):
        own = np.flatnonzero(data.molecule == m)
        chosen.append(own[np.argmax(data.kind[own] == minima)])
    return np.array(chosen)


def follow(model: ConsistentModel, start: StructureBatch, ensemble: str, ps: float, saved: Path) -> dict[str, Any]:
    """Dynamics of one chunk, resumed from ``saved`` if that exists.

    Returns:
        ``total`` and ``kinetic`` energies ``[n_records, n_graphs]`` in eV, ``changed_ps``, ``peak_force`` and ``alive``
        ``[n_graphs]``.
    """
    temperature, friction = ENSEMBLES[ensemble]
    dynamics, bonds = Dynamics(model, start, TIMESTEP_FS, seed=1), BondCheck(start)
    n_records = round(ps * 1000 / TIMESTEP_FS) // RECORD_EVERY
    record: dict[str, Any] = {name: np.full((n_records, start.n_graphs), np.nan) for name in ("total", "kinetic")}
    record |= {"changed_ps": np.full(start.n_graphs, np.nan), "first": np.array(0)}
    if saved.exists():
        state = dict(np.load(saved))
        dynamics.resume(state)
        record = {name: state[name] for name in record}
    else:
        equilibrate(dynamics, ensemble, ps)
    for k in range(int(record["first"]), n_records):
        dynamics.run(RECORD_EVERY, temperature, friction)
        kinetic, alive = dynamics.kinetic_energy(), dynamics.alive.cpu().numpy()
        record["kinetic"][k] = np.where(alive, kinetic.cpu(), np.nan)
        record["total"][k] = np.where(alive, (kinetic + dynamics.energy).cpu(), np.nan)
        new = bonds.changed(dynamics.positions).cpu().numpy() & np.isnan(record["changed_ps"])
        record["changed_ps"][new] = (k + 1) * RECORD_EVERY * TIMESTEP_FS / 1000
        if (k + 1) % SAVE_EVERY == 0:
            record["first"] = np.array(k + 1)
            partial = saved.with_suffix(".partial.npz")
            np.savez(partial, **dynamics.state(), **record)
            partial.replace(saved)
    return record | {name: dynamics.state()[name] for name in ("peak_force", "alive")}


def equilibrate(dynamics: Dynamics, ensemble: str, ps: float) -> None:
    """Brings molecules to the temperature of an ensemble, before ``ps`` picoseconds in it."""
    temperature, friction = ENSEMBLES[ensemble]
    dynamics.thermalize(temperature)
    dynamics.run(round(min(EQUILIBRATION_PS, ps) * 1000 / TIMESTEP_FS), temperature, STRONG_FRICTION)
    if not friction:
        dynamics.stop_rigid_motion()


def measure(record: dict[str, Any], counts: NDArray[np.int64], ensemble: str) -> list[dict[str, Any]]:
    """The columns of the table that come from the dynamics, one row a molecule."""
    n_records = len(record["total"])
    times = np.arange(n_records) * RECORD_EVERY * TIMESTEP_FS / 1000
    rows = []
    for k, n in enumerate(counts):
        known = ~np.isnan(record["total"][:, k])
        energy = record["total"][known, k] * 1000 / n  # meV/atom
        conserved = ensemble == "NVE" and known.sum() > 1
        freedom = 3 * n - 6 if ensemble == "NVE" else 3 * n
        changed = record["changed_ps"][k]
        rows.append(
            {
                "survived": int(record["alive"][k]),
                "bonds_changed_ps": "" if np.isnan(changed) else f"{changed:.3f}",
                "drift_meV_atom_ps": f"{np.polyfit(times[known], energy, 1)[0]:.4g}" if conserved else "",
                "energy_std_meV_atom": f"{energy.std():.4g}" if conserved else "",
                "max_force_eV_A": f"{record['peak_force'][k]:.4g}",
                "temperature_K": f"{2 * np.nanmean(record['kinetic'][:, k]) / (freedom * BOLTZMANN):.4g}"
                if known.any()
                else "",
            }
        )
    return rows


def read_rows(path: Path) -> list[dict[str, str]]:
    """What there is so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Adds rows, with a header if the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
            table.writeheader()
        table.writerows(rows)


def simulate(
    model: ConsistentModel, data: Dataset, chunk: list[int], ensemble: str, ps: float, saved: Path
) -> list[dict[str, Any]]:
    """Rows of the conformations in ``chunk``, but for the settings of the run."""
    start = relax(model, data.batch(chunk)[0].to(model.device, torch.float64), fmax=0.05).batch
    counts = start.counts.cpu().numpy()
    measured = measure(follow(model, start, ensemble, ps, saved), counts, ensemble)
    molecules = data.molecule[chunk]
    return [
        {"ensemble": ensemble, "molecule": m, "smiles": data.smiles[m], "charge": data.charge[m], "atoms": n} | row
        for m, n, row in zip(molecules, counts, measured, strict=True)
    ]


def run(data: Dataset, options: argparse.Namespace) -> list[dict[str, str]]:
    """All chunks that are not in the table yet; returns the rows that belong to this run."""
    settings = {"weights": read_card(options.checkpoint)["sha256"][:8], "ps": f"{options.picoseconds:g}"}
    chosen = selected(data, options.molecules)

    def rows(ensemble: str) -> list[dict[str, str]]:
        wanted = settings | {"ensemble": ensemble}
        molecules = {str(m) for m in data.molecule[chosen]}
        return [r for r in read_rows(options.output) if wanted.items() <= r.items() and r["molecule"] in molecules]

    for ensemble in options.only:
        model = load_model(options.checkpoint, device=options.device, dtype=PRECISION[ensemble])
        done = {row["molecule"] for row in rows(ensemble)}
        missing = [k for k in chosen if str(data.molecule[k]) not in done]
        for first in range(0, len(missing), options.chunk):
            begin, chunk = time.perf_counter(), missing[first : first + options.chunk]
            # A state is of these molecules, weights and settings only.
            digest = hashlib.sha256(repr((settings, ensemble, list(map(int, chunk)))).encode()).hexdigest()[:12]
            saved = options.output.with_name(f".{options.output.stem}_{digest}.npz")
            new = simulate(model, data, chunk, ensemble, options.picoseconds, saved)
            append_rows(options.output, [settings | row for row in new])
            saved.unlink(missing_ok=True)
            seconds = time.perf_counter() - begin
            atoms = sum(row["atoms"] for row in new)
            print(f"{ensemble}: {len(chunk)} molecules, {atoms} atoms, {seconds:.0f} s", flush=True)
    return [row for ensemble in ENSEMBLES for row in rows(ensemble)]


def summarize(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Figures of each ensemble."""
    out = []
    for ensemble in dict.fromkeys(r["ensemble"] for r in rows):
        own = [r for r in rows if r["ensemble"] == ensemble]
        drift = np.abs([float(r["drift_meV_atom_ps"]) for r in own if r["drift_meV_atom_ps"]])
        figures = {
            "molecules that survive": sum(r["survived"] == "1" for r in own),
            "molecules with all bonds intact": sum(not r["bonds_changed_ps"] for r in own),
            "largest force (eV/Angstrom)": max(float(r["max_force_eV_A"]) for r in own),
            "mean temperature (K)": np.mean([float(r["temperature_K"]) for r in own if r["temperature_K"]]),
        }
        if len(drift):
            figures["median of absolute drift (meV/atom/ps)"] = np.median(drift)
            figures["largest absolute drift (meV/atom/ps)"] = drift.max()
        label = f"{ensemble}, {own[0]['ps']} ps, weights {own[0]['weights']}"
        out += [{"test": label, "metric": k, "value": f"{v:.4g}", "n": len(own)} for k, v in figures.items()]
    return out


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Drift, largest forces and when bonds changed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colors = {"NVE": "#2563eb", "Langevin": "#d97706"}
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    drift = [float(r["drift_meV_atom_ps"]) for r in rows if r["drift_meV_atom_ps"]]
    axes[0].hist(drift, bins=30, color=colors["NVE"])
    axes[0].set_xlabel("drift, NVE (meV/atom/ps)")
    axes[0].locator_params(axis="x", nbins=5)
    for name, color in colors.items():
        own = [r for r in rows if r["ensemble"] == name]
        if not own:
            continue
        axes[1].hist([float(r["max_force_eV_A"]) for r in own], bins=30, color=color, alpha=0.6, label=name)
        ends = sorted(float(r["bonds_changed_ps"]) for r in own if r["bonds_changed_ps"])
        last = float(own[0]["ps"])
        intact = [len(own) - k for k in range(len(ends) + 1)]
        axes[2].step([0.0, *ends, last], [*intact, intact[-1]], where="post", color=color, label=name)
    axes[1].set_xlabel("largest force (eV/Å)")
    axes[2].set_xlabel("time (ps)")
    axes[2].set_ylim(0, None)
    axes[0].set_ylabel("molecules")
    axes[2].set_ylabel("molecules with bonds intact")
    axes[1].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--checkpoint", default=DEFAULT, help="path, or name of a shipped one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--molecules", type=int, default=100)
    parser.add_argument("--picoseconds", type=float, default=20.0)
    parser.add_argument("--only", nargs="*", choices=list(ENSEMBLES), default=list(ENSEMBLES))
    parser.add_argument("--chunk", type=int, default=None, help="molecules at once; 10 on the CPU, else all")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "stability.csv")
    options = parser.parse_args()
    options.chunk = options.chunk or (10 if options.device == "cpu" else options.molecules)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    summary = summarize(rows := run(Store(options.data).read(Split.VALIDATION), options))
    for line in summary:
        print(f"{line['test']:<36} {line['metric']:<40} {line['value']}  (n = {line['n']})")
    path = options.output.with_name(f"{options.output.stem}_summary.csv")
    path.unlink(missing_ok=True)
    append_rows(path, summary)
    if find_spec("matplotlib"):
        draw(rows, options.output.with_suffix(".png"))
    else:
        print("no matplotlib here: run the same command elsewhere for the picture")


if __name__ == "__main__":
    main()
