"""Would a term beyond the cutoff pay? Coulomb's law and dispersion, held against the errors of the shipped network.

    pip install ".[label]"
    python benchmarks/accuracy/long_range.py [--checkpoint base] [--data datasets/organic.h5]

The network has neither; an atom knows of another one beyond the cutoff only through those between. If that is what it
lacks, its errors look like the missing term. The errors of forces, and of relative energies, on validation structures
are therefore fitted by each term times a factor: the share of their variance that goes away is what the term could
gain if it were added to the network as it is, and the factor says whether it is the term's physics (1) or chance.

- Coulomb: between the teacher's own partial charges, kept fixed, with a switch from 0 to 1 between 4 and 6 Angstrom.
- dispersion: D3(BJ) for wB97M, of all pairs, by ``pyscf-dispersion``. The teacher was fitted to a functional with D3.

Writes ``results/long_range.csv``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import judges
import numpy as np
import torch
from numpy.typing import NDArray
from summary import write_csv

from consistent_calc import load_model
from consistent_calc.data import Dataset, Split, Store
from consistent_calc.train.evaluation import sample_molecules
from consistent_calc.units import BOHR, HARTREE, KCAL_PER_MOL

#: Coulomb's constant, eV Angstrom / e^2.
COULOMB = HARTREE * BOHR
#: Where Coulomb's law sets in, Angstrom: around the cutoff of the network.
BEGIN, END = 4.0, 6.0
#: Validation structures, in whole molecules, and atoms from which a molecule is large.
SAMPLE, LARGE = 3000, 45

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """Energies ``[n]`` in eV and forces ``[n_rows, 3]`` in eV/Angstrom of all structures."""

    energy: Array
    forces: Array


def coulomb(x: Array, charges: Array) -> tuple[float, Array]:
    """Energy and forces ``[n_atoms, 3]`` of fixed charges ``[n_atoms]`` beyond the cutoff."""
    positions = torch.from_numpy(x).requires_grad_()
    first, second = torch.triu_indices(len(x), len(x), offset=1)
    distance = (positions[first] - positions[second]).norm(dim=1)
    t = ((distance - BEGIN) / (END - BEGIN)).clamp(0, 1)
    q = torch.from_numpy(charges)
    energy = COULOMB * (q[first] * q[second] / distance * t**3 * (10 - 15 * t + 6 * t**2)).sum()
    energy.backward()
    assert positions.grad is not None
    return energy.item(), -positions.grad.numpy()


def dispersion(x: Array, numbers: NDArray[np.int64]) -> tuple[float, Array]:
    """Energy and forces ``[n_atoms, 3]``."""
    from pyscf import gto
    from pyscf.dispersion.dftd3 import DFTD3Dispersion

    mol = gto.M(atom=list(zip(numbers.tolist(), x.tolist(), strict=True)), spin=None, verbose=0)
    found = DFTD3Dispersion(mol, xc="wb97m", version="d3bj").get_dispersion(grad=True)
    return found["energy"] * HARTREE, -found["gradient"] * HARTREE / BOHR


def terms(data: Dataset, rows: NDArray[np.int64]) -> dict[str, Term]:
    """Both terms."""
    found: dict[str, list[tuple[float, Array]]] = {"Coulomb": [], "dispersion": []}
    for k in rows:
        batch, labels = data.batch([k])
        assert labels.partial_charges is not None
        x = batch.positions.double().numpy()
        found["Coulomb"].append(coulomb(x, labels.partial_charges.double().numpy()))
        found["dispersion"].append(dispersion(x, batch.numbers.numpy()))
    return {
        name: Term(np.array([energy for energy, _ in column]), np.concatenate([forces for _, forces in column]))
        for name, column in found.items()
    }


def errors(checkpoint: str, data: Dataset, rows: NDArray[np.int64]) -> Term:
    """Labels less what the model says."""
    model = load_model(checkpoint, dtype=torch.float64)
    energies, forces = [], []
    for some in np.array_split(rows, max(1, len(rows) // 50)):
        batch, labels = data.batch(some)
        said = model.predict(batch)
        assert labels.energy is not None
        assert labels.forces is not None
        assert said.forces is not None
        energies.append((labels.energy - said.energy).numpy())
        forces.append((labels.forces - said.forces).numpy())
    return Term(np.concatenate(energies), np.concatenate(forces))


def fit(error: Array, term: Array) -> tuple[float, float]:
    """The factor of the term that leaves least of the error, and the share of its variance that goes away."""
    along = float((error * term).sum())
    factor = along / float((term * term).sum())
    return factor, factor * along / float((error * error).sum())


def main() -> None:
    parser = judges.arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = Store(options.data).read(Split.VALIDATION)
    rows = sample_molecules(data, SAMPLE)
    error, found = errors(options.checkpoint, data, rows), terms(data, rows)
    molecule, size = data.molecule[rows], data.n_atoms[rows]
    groups = {
        "all": np.ones(len(rows), bool),
        "charged": data.charge[molecule] != 0,
        f"{LARGE} atoms or more": size >= LARGE,
    }
    lines = []
    for group, chosen in groups.items():
        atoms, own = np.repeat(chosen, size), molecule[chosen]
        left = judges.within_molecules(error.energy[chosen], own)
        for name, term in found.items():
            of_forces = fit(error.forces[atoms], term.forces[atoms])
            of_energies = fit(left, judges.within_molecules(term.energy[chosen], own))
            lines.append(
                {
                    "structures": group,
                    "n": int(chosen.sum()),
                    "term": name,
                    "rms_force_of_term_eV_A": float(np.sqrt((term.forces[atoms] ** 2).mean())),
                    "rms_force_error_eV_A": float(np.sqrt((error.forces[atoms] ** 2).mean())),
                    "force_factor": of_forces[0],
                    "force_variance_explained_percent": 100 * of_forces[1],
                    "rms_energy_error_kcal_mol": float(np.sqrt((left**2).mean())) / KCAL_PER_MOL,
                    "energy_factor": of_energies[0],
                    "energy_variance_explained_percent": 100 * of_energies[1],
                }
            )
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in lines[-1].items()}, flush=True)
    write_csv(options.results / "long_range.csv", lines)


if __name__ == "__main__":
    main()
