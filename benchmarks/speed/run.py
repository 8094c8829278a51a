"""Energies and forces beside other models that run offline, in one process: milliseconds and ratios.

    pip install tblite "setuptools<81" lark requests
    pip download --no-deps auto3d==2.3.1 torchani==2.0
    python -m zipfile -e Auto3D-*.whl peers && python -m zipfile -e torchani-*.whl peers
    python benchmarks/speed/run.py --peers peers

Molecules are straight-chain peptides of growing length next to ethanol and aspirin; peers that are not there are left
out. They run as TorchScript where they can, which is faster. Run it on a quiet machine. The methods take turns of a
fifth of a second or more, in which a method is called again and again, as in dynamics, and the smallest of its times is
reported: other work on the machine can only make a time longer.
"""

from __future__ import annotations

import argparse
import copy
import csv
import platform
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule
from ase.io import read

from consistent_calc import ConsistentCalculator, ConsistentModel, StructureBatch, load_model
from consistent_calc.neighbors import neighbor_list
from consistent_calc.nn.kernels import PLAIN

#: MMFF94 minima of growing size, with their SMILES.
MOLECULES = Path(__file__).parent / "molecules.xyz"
BATCH = 256
#: The part of our time that the search for neighbors takes.
NEIGHBORS = "neighbor list of ours"
#: Atoms per water molecule, and the edge of a cube that holds one at the density of the liquid, Angstrom.
WATER, WATER_EDGE = 3, 3.106

#: Columns of the memory that the boxes take, in the order of their sizes.
MEMORY = ("atoms", "peak_GiB_of_the_process_so_far", "device", "name")

#: Evaluates a batch once, energies and forces.
Evaluate = Callable[[], Any]


def water_box(n_molecules: int) -> StructureBatch:
    """Water molecules in random orientations on a cubic grid, periodic."""
    rng = np.random.default_rng(0)
    side = round(n_molecules ** (1 / 3))
    water = molecule("H2O")
    x = water.positions - water.positions.mean(0)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3) * WATER_EDGE
    turned = [x @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + g for g in grid]
    numbers = np.tile(water.numbers, len(grid))
    return StructureBatch.from_arrays(
        numbers, np.concatenate(turned), cell=np.eye(3) * side * WATER_EDGE, pbc=True, charge=0.0
    )


def ours(model: ConsistentModel, batch: StructureBatch) -> Evaluate:
    """Neighbor search included."""
    moved = batch.to(model.device)
    return lambda: model.predict(moved)


def neighbors(model: ConsistentModel, batch: StructureBatch) -> Evaluate:
    """The search for neighbors alone, which a skin would save now and then: what it could gain at most."""
    exact = batch.to(model.device, torch.float64)
    return lambda: neighbor_list(exact, model.cutoff)


def without_kernels(model: ConsistentModel, batch: StructureBatch) -> Evaluate:
    """The same network in plain torch."""
    plain = copy.copy(model)
    plain._kernels = lambda: PLAIN  # type: ignore[method-assign]
    return ours(plain, batch)


def aimnet2_peers(folder: Path, device: str) -> dict[str, Callable[[StructureBatch], Evaluate]]:
    """One AIMNet2 network, for molecules of equal size, in float32 as it comes."""
    path = folder / "Auto3D" / "models" / "aimnet2_wb97m-d3_0.jpt"
    if not path.exists():
        return {}
    network = torch.jit.load(str(path), map_location=device)

    def prepare(batch: StructureBatch) -> Evaluate:
        moved = batch.to(device, torch.float32)
        numbers, charge = moved.numbers.reshape(batch.n_graphs, -1), moved.charge
        x = moved.positions.reshape(batch.n_graphs, -1, 3)

        def evaluate() -> Any:
            leaf = x.clone().requires_grad_()
            energy = network({"coord": leaf, "numbers": numbers, "charge": charge})["energy"].sum()
            return torch.autograd.grad(energy, leaf)

        return evaluate

    return {"AIMNet2 (1 network)": prepare}


def ani_peers(folder: Path, device: str) -> dict[str, Callable[[StructureBatch], Evaluate]]:
    """The eight networks of ANI-1ccx and the one of ANI2xt, for molecules of equal size of their elements."""
    sys.path.insert(0, str(folder))
    try:
        from Auto3D.batch_opt.ANI2xt_no_rep import ANI2xt
        from torchani.models import ANI1ccx
    except ImportError:
        return {}

    def prepare(network: torch.nn.Module, index: dict[int, int] | None, batch: StructureBatch) -> Evaluate:
        moved = batch.to(device, torch.float32)
        species = moved.numbers if index is None else torch.tensor([index[z] for z in moved.numbers.tolist()])
        species = species.to(device).reshape(batch.n_graphs, -1)
        x = moved.positions.reshape(batch.n_graphs, -1, 3)

        def evaluate() -> Any:
            leaf = x.clone().requires_grad_()
            return torch.autograd.grad(network((species, leaf)).energies.sum(), leaf)

        return evaluate

    ccx = torch.jit.script(ANI1ccx(periodic_table_index=True).to(device))
    xt = ANI2xt(torch.device(device))
    return {
        "ANI-1ccx (8 networks)": partial(prepare, ccx, None),
        "ANI2xt (1 network)": partial(prepare, torch.jit.script(xt.model), xt.periodict2idx),
    }


def gfn2_peers() -> dict[str, Callable[[StructureBatch], Evaluate]]:
    """GFN2-xTB by tblite, for one neutral molecule."""
    try:
        from consistent_calc.labelling.gfn2 import Tblite

        engine = Tblite("GFN2-xTB")
    except ImportError:
        return {}

    def prepare(batch: StructureBatch) -> Evaluate:
        numbers, x = batch.numbers.numpy(), batch.positions.numpy()
        return lambda: engine.single_point(numbers, x, 0)

    return {"GFN2-xTB (tblite)": prepare}


def fastest(methods: dict[str, Evaluate], seconds: float, turn: float = 0.2) -> dict[str, float]:
    """The shortest time of each method in milliseconds; they take turns until ``seconds`` have passed.

    After a call of another method the caches are full of its data and code, which doubles the time of a short one.
    """
    times: dict[str, list[float]] = {name: [] for name in methods}
    for evaluate in methods.values():
        evaluate()
        evaluate()  # TorchScript optimises at the second call
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or min(map(len, times.values())) < 3:
        for name, evaluate in methods.items():
            end = time.perf_counter() + turn
            while True:
                start = time.perf_counter()
                evaluate()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - start)
                if time.perf_counter() > end:
                    break
    return {name: 1e3 * min(found) for name, found in times.items()}


def dynamics(model: ConsistentModel, batch: StructureBatch, steps: int = 200) -> float:
    """Milliseconds a step of NVE dynamics in ASE."""
    from ase import units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet

    (atoms,) = batch.to_ase()
    atoms.calc = ConsistentCalculator(model)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    integrator = VelocityVerlet(atoms, 0.5 * units.fs)
    integrator.run(10)
    begin = time.perf_counter()
    integrator.run(steps)
    return 1e3 * (time.perf_counter() - begin) / steps


def peak_memory(device: str) -> float:
    """GiB so far, of the process or of what was allocated on the GPU."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return torch.cuda.max_memory_allocated() / 2**30


def processor() -> str:
    """Name of the CPU, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def write(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)


def draw(rows: list[tuple[Any, ...]], path: Path) -> None:
    """Times of one molecule against its size, and of a molecule in a batch."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=[3, 2])
    methods = dict.fromkeys(row[5] for row in rows if row[0] == "molecule" and row[5] != NEIGHBORS)
    colors = dict(zip(methods, plt.colormaps["tab10"].colors, strict=False))
    for method in methods:
        points = [(row[1], float(row[6])) for row in rows if row[0] == "molecule" and row[5] == method]
        left.loglog(
            *zip(*points, strict=True), "o-", color=colors[method], label=method, lw=2 if method == "ours" else 1
        )
    sizes = sorted({row[1] for row in rows if row[0] == "molecule"})
    left.set_xticks(sizes, map(str, sizes))
    left.minorticks_off()
    left.set_xlabel("atoms of one molecule")
    left.set_ylabel("energy and forces (ms)")
    left.legend(frameon=False, fontsize=8)
    # Plain torch is beyond the scale.
    shown = [method for method in methods if "plain" not in method]
    batch = {row[5]: float(row[6]) / BATCH for row in rows if row[0] == "batch" and row[5] in shown}
    right.barh(list(batch), list(batch.values()), color=[colors[method] for method in batch])
    right.invert_yaxis()
    right.set_xlabel(f"ms a molecule of 21 atoms, {BATCH} at once")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder of the unpacked wheels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each system")
    parser.add_argument("--turn", type=float, default=0.2, help="seconds of a method's turn; 0 is a single call")
    parser.add_argument("--boxes", type=int, nargs="*", default=[343, 6859], help="water molecules, cubes of integers")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "summary.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    model = load_model(arguments.checkpoint, device=device)
    peers = aimnet2_peers(arguments.peers, device) | ani_peers(arguments.peers, device)
    if device == "cpu":
        peers |= gfn2_peers()
    rows: list[tuple[Any, ...]] = []
    timing = arguments.seconds, arguments.turn

    def add(system: str, atoms: int, batch: int, found: dict[str, float]) -> None:
        for method, ms in found.items():
            rows.append(
                (system, atoms, batch, device, arguments.threads, method, f"{ms:.4g}", f"{ms / found['ours']:.3g}")
            )
            print(*rows[-1], flush=True)

    def variants(structures: StructureBatch) -> dict[str, Evaluate]:
        found = {"ours": ours(model, structures), NEIGHBORS: neighbors(model, structures)}
        return found | ({"ours, plain torch": without_kernels(model, structures)} if device == "cpu" else {})

    # First, as the peak of a process never falls.
    peaks = {}
    for n in arguments.boxes:
        box = water_box(n)
        parts = {"ours": ours(model, box), NEIGHBORS: neighbors(model, box)}
        add("water box", box.n_atoms, 1, fastest(parts, 1.0))
        peaks[box.n_atoms] = f"{peak_memory(device):.3f}"
    molecules = {len(a): StructureBatch.from_ase(a) for a in read(MOLECULES, ":")}
    for n, one in molecules.items():
        methods = variants(one)
        add("molecule", n, 1, fastest(methods | {k: prepare(one) for k, prepare in peers.items()}, *timing))
    many = StructureBatch.concatenate([molecules[21]] * BATCH)
    methods = variants(many)
    networks = {k: prepare(many) for k, prepare in peers.items() if not k.startswith("GFN2")}
    add("batch", 21, BATCH, fastest(methods | networks, *timing))
    add("dynamics in ASE, one step", 21, 1, {"ours": dynamics(model, molecules[21])})
    arguments.output.parent.mkdir(exist_ok=True)
    header = ("system", "atoms", "batch", "device", "threads", "method", "ms", "ratio_to_ours")
    write(arguments.output, header, rows)
    where = (device, processor() if device == "cpu" else torch.cuda.get_device_name())
    memory = [(n, gib, *where) for n, gib in peaks.items()]
    write(arguments.output.with_name(f"{arguments.output.stem}_memory.csv"), MEMORY, memory)
    if find_spec("matplotlib"):
        draw(rows, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
