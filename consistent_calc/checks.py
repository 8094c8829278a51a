"""Physics checks: what must hold for any weights, measured on a structure of the user's choice.

Every check evaluates a float64 copy of the model, so that what it finds is an error and not rounding, and compares one
number with a threshold whose reason is given beside it. The tests, the command line and users run the same functions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from consistent_calc.diffusion.noise import noised
from consistent_calc.diffusion.samplers import denoise_once
from consistent_calc.model import ConsistentModel, Prediction
from consistent_calc.relaxation import relax
from consistent_calc.structures import StructureBatch

if TYPE_CHECKING:
    from ase import Atoms
    from rdkit.Chem import Mol

    Source = Atoms | Mol | StructureBatch

#: Equal up to the order of float64 sums over some hundred terms of some eV (1e-13), with a wide margin.
ROUNDING = 1e-8
#: Displacement for central differences, Angstrom, and strain. Their error is h^2/6 times a third derivative of up to
#: 2000 eV/Angstrom^3, i.e. 1e-6, and that of the rounded energies of atoms, up to 1e5 eV, 1e-11 / h = 2e-7.
STEP = 5e-5
#: Most atoms whose forces are compared with finite differences; they are spread evenly over a larger structure.
MAX_PROBED = 20


@dataclass(frozen=True)
class Check:
    """Outcome of a check.

    Attributes:
        name: what was checked.
        value: the largest deviation found.
        threshold: the largest deviation allowed.
        unit: of both.
        detail: what was compared with what.
    """

    name: str
    value: float
    threshold: float
    unit: str
    detail: str

    @property
    def passed(self) -> bool:
        """Whether ``value`` is at most ``threshold``; NaN fails."""
        return self.value <= self.threshold

    def __str__(self) -> str:
        mark = "pass" if self.passed else "FAIL"
        return f"{mark}  {self.name}: {self.value:.1e} (at most {self.threshold:.0e}) {self.unit}; {self.detail}"


def run_checks(
    model: ConsistentModel, source: Source, *, level: str | None = None, dynamics_steps: int = 400
) -> list[Check]:
    """All checks that make sense for a structure.

    Stress needs a cell, additivity a neutral and the structure head an open structure with bonds (an RDKit molecule);
    the others always run.

    Args:
        model: in any precision, on any device.
        source: one structure as ASE Atoms, RDKit molecule with one conformer, or batch of one.
        level: level of theory, by default the model's first.
        dynamics_steps: of :func:`check_energy_drift`, by far the longest check.
    """
    model, batch = _double(model), single(source)
    checks = [
        check_forces(model, batch, level=level),
        check_rotation(model, batch, level=level),
        check_reflection(model, batch, level=level),
        check_translation(model, batch, level=level),
        check_permutation(model, batch, level=level),
        check_batch(model, batch, level=level),
        check_charge_sum(model, batch, level=level),
        check_cutoff(model, batch, level=level),
    ]
    if bool(batch.pbc.any()) and float(torch.linalg.det(batch.cell[0])) != 0:
        checks.append(check_stress(model, batch, level=level))
    if float(batch.charge[0]) == 0:
        checks.append(check_additivity(model, batch, level=level))
    checks.append(check_energy_drift(model, batch, level=level, n_steps=dynamics_steps))
    if batch.bonds is not None and not bool(batch.pbc.any()):
        checks += [check_denoiser_motion(model, batch), check_denoiser_reflection(model, batch)]
    return checks


def single(source: Source) -> StructureBatch:
    """One structure from anything a check accepts, in float64 on the CPU.

    Raises:
        InvalidStructureError: what no model could answer.
        ValueError: several structures.
    """
    from ase import Atoms

    if isinstance(source, StructureBatch):
        batch = source.to("cpu", torch.float64)
    elif isinstance(source, Atoms):
        batch = StructureBatch.from_ase(source)
    else:
        batch = StructureBatch.from_rdkit(source)
    batch.validate(warn_odd_electrons=False)
    if batch.n_graphs != 1:
        raise ValueError(f"A check looks at one structure, got {batch.n_graphs}; check them one by one.")
    return batch


# ---------------------------------------------------------------------- derivatives


def check_forces(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """Forces are minus the derivative of the energy, by central differences."""
    batch = single(source)
    n_probed = min(batch.n_atoms, MAX_PROBED)
    probed = torch.linspace(0, batch.n_atoms - 1, n_probed).round().long()
    moved = []
    for atom in probed.tolist():
        for axis in range(3):
            for sign in (1, -1):
                positions = batch.positions.clone()
                positions[atom, axis] += sign * STEP
                moved.append(batch.with_positions(positions))
    energies = _atomic_energies(model, moved, level).view(-1, 3, 2, batch.n_atoms)
    numeric = (energies[:, :, 1] - energies[:, :, 0]).sum(2) / (2 * STEP)
    deviation = _largest(numeric - _forces(_predict(model, batch, level))[probed])
    # A wrong sign or factor shows as an error of the size of the forces, a discontinuity as one of 1e-3 and more.
    return Check("forces", deviation, 1e-5, "eV/Angstrom", f"finite differences of the energy of {n_probed} atoms")


def check_stress(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """Stress is the derivative of the energy with respect to a homogeneous strain, over the volume."""
    batch = single(source)
    strained = []
    for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        for sign in (1, -1):
            strain = torch.eye(3, dtype=torch.float64)
            strain[a, b] += sign * STEP / 2
            strain[b, a] += sign * STEP / 2
            strained.append(_transformed(batch, strain))
    energies = _atomic_energies(model, strained, level).view(6, 2, batch.n_atoms)
    volume = torch.linalg.det(batch.cell[0]).abs()
    numeric = (energies[:, 0] - energies[:, 1]).sum(1) / (2 * STEP * volume)
    stress = _predict(model, batch, level, stress=True).stress
    assert stress is not None
    analytic = stress[0].reshape(-1)[[0, 4, 8, 5, 2, 1]]
    # 1e-6 eV/Angstrom^3 is 0.2 MPa.
    return Check("stress", _largest(numeric - analytic), 1e-6, "eV/Angstrom^3", "finite differences of strain")


# ---------------------------------------------------------------------- symmetries


def check_rotation(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """The energy does not change under rotation, the forces rotate along."""
    return _check_orthogonal("rotation", model, single(source), _rotation(), level)


def check_reflection(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """Mirror images have the same energy and mirrored forces."""
    return _check_orthogonal("reflection", model, single(source), _reflection(), level)


def check_translation(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """Energy and forces do not change under translation."""
    batch = single(source)
    shift = batch.positions.new_tensor([3.1, -17.7, 41.3])
    moved = _predict(model, batch.with_positions(batch.positions + shift), level)
    deviation = _deviation(moved, _predict(model, batch, level))
    return Check("translation", deviation, ROUNDING, "eV, eV/Angstrom", "moved by 45 Angstrom")


def check_permutation(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """The order of the atoms does not matter."""
    batch = single(source)
    order = torch.randperm(batch.n_atoms, generator=torch.Generator().manual_seed(0))
    permuted = replace(batch, numbers=batch.numbers[order], positions=batch.positions[order], bonds=None, stereo=None)
    reference = _predict(model, batch, level)
    expected = replace(reference, forces=_forces(reference)[order])
    deviation = _deviation(_predict(model, permuted, level), expected)
    return Check("permutation", deviation, ROUNDING, "eV, eV/Angstrom", "atoms in another order")


def _check_orthogonal(
    name: str, model: ConsistentModel, batch: StructureBatch, matrix: Tensor, level: str | None
) -> Check:
    """Energy invariant, forces equivariant under an orthogonal matrix that acts on row vectors from the right."""
    reference = _predict(model, batch, level)
    expected = replace(reference, forces=_forces(reference) @ matrix)
    deviation = _deviation(_predict(model, _transformed(batch, matrix), level), expected)
    return Check(name, deviation, ROUNDING, "eV, eV/Angstrom", "energy and forces of the transformed structure")


# ---------------------------------------------------------------------- locality


def check_batch(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """A structure's energy and forces do not depend on what else is in the batch."""
    batch = single(source)
    compressed = batch.with_positions(batch.positions * 0.97)
    atom = StructureBatch.from_arrays(batch.numbers[:1], [[0.0, 0.0, 0.0]], charge=-1)
    together = _predict(model, StructureBatch.concatenate([compressed, batch, atom]), level)
    middle = replace(together, energy=together.energy[1:2], forces=_forces(together).split(batch.n_atoms)[1])
    deviation = _deviation(middle, _predict(model, batch, level))
    return Check("batch", deviation, ROUNDING, "eV, eV/Angstrom", "alone and between two other structures")


def check_additivity(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """Two neutral molecules far apart have the sum of their energies, and their own forces.

    Partial charges may shift between them, as they are made to sum up over the whole structure. Charged structures do
    not add up in this sense: where the charge sits is decided over the whole structure.
    """
    batch = _open(single(source))
    apart = batch.positions.new_tensor([100.0, 0, 0]) + (batch.positions.amax(0) - batch.positions.amin(0))
    pair = StructureBatch.from_arrays(
        torch.cat([batch.numbers, batch.numbers]), torch.cat([batch.positions, batch.positions + apart])
    )
    alone, both = _predict(model, batch, level), _predict(model, pair, level)
    expected = replace(alone, energy=2 * alone.energy, forces=_forces(alone).repeat(2, 1))
    return Check("additivity", _deviation(both, expected), ROUNDING, "eV, eV/Angstrom", "two distant copies")


def check_cutoff(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """Energy and forces are continuous where an atom enters the cutoff of the outermost atom.

    A cell is dropped. The atom crosses the cutoff by 1e-4 Angstrom; the forces of a smooth function change by some
    1e-8, those of a hard cutoff jump by the interaction at that distance, about 1e-3 and more.
    """
    batch = _open(single(source))
    outermost = int(batch.positions[:, 0].argmax())
    pair = []
    for distance in (model.cutoff - STEP, model.cutoff + STEP):
        probe = batch.positions[outermost] + batch.positions.new_tensor([distance, 0.0, 0.0])
        pair.append(
            StructureBatch.from_arrays(
                torch.cat([batch.numbers, batch.numbers[:1]]),
                torch.cat([batch.positions, probe[None]]),
                charge=float(batch.charge[0]),
            )
        )
    inside, outside = (_predict(model, b, level) for b in pair)
    return Check(
        "cutoff", _deviation(inside, outside), 1e-6, "eV, eV/Angstrom", f"an atom crossing {model.cutoff:g} Angstrom"
    )


# ---------------------------------------------------------------------- conservation


def check_charge_sum(model: ConsistentModel, source: Source, *, level: str | None = None) -> Check:
    """Partial charges add up to the total charge."""
    batch = single(source)
    total = _predict(model, batch, level).charges.sum()
    return Check("charge sum", float((total - batch.charge[0]).abs()), ROUNDING, "e", "sum minus total charge")


def check_energy_drift(
    model: ConsistentModel,
    source: Source,
    *,
    level: str | None = None,
    n_steps: int = 400,
    timestep: float = 0.25,
    temperature: float = 300.0,
) -> Check:
    """Molecular dynamics conserves the total energy: slope of a linear fit, per atom.

    From the minimum nearby: the strain of a bond would turn into a vibration that needs shorter steps. Velocity Verlet
    with 0.25 fs keeps the energy of a bond to hydrogen within 0.3% of kT; over the default 0.1 ps such oscillations
    leave a slope of about 1e-4 eV/atom/ps, while forces that are no gradient give 1e-2 and more.

    Args:
        n_steps: length of the run.
        timestep: fs.
        temperature: of the initial velocities, Kelvin.
    """
    from ase import units
    from ase.md.verlet import VelocityVerlet
    from scipy.stats import linregress

    from consistent_calc.calculator import ConsistentCalculator

    model = _double(model)
    (atoms,) = relax(model, single(source), level=level, fmax=0.05, max_steps=100).batch.to_ase()
    atoms.calc = ConsistentCalculator(model, level=level)
    width = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(width * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    energies = [atoms.get_total_energy()]
    for _ in range(n_steps):
        dynamics.run(1)
        energies.append(atoms.get_total_energy())
    slope = linregress(np.arange(len(energies)) * timestep * 1e-3, energies).slope / len(atoms)
    return Check("energy drift", abs(float(slope)), 1e-3, "eV/atom/ps", f"{n_steps * timestep:g} fs at constant energy")


# ---------------------------------------------------------------------- the structure head


def check_denoiser_motion(model: ConsistentModel, source: Source, *, sigma: float = 0.3) -> Check:
    """The denoised structure rotates and moves along with its input."""
    batch = _noised(single(source), sigma)
    rotation, shift = _rotation(), batch.positions.new_tensor([7.0, -2.0, 11.0])
    moved = _denoise(model, batch.with_positions(batch.positions @ rotation + shift), sigma)
    deviation = _largest(moved - (_denoise(model, batch, sigma) @ rotation + shift))
    return Check("denoiser motion", deviation, ROUNDING, "Angstrom", f"rotated and moved input at noise {sigma:g}")


def check_denoiser_reflection(model: ConsistentModel, source: Source, *, sigma: float = 0.3) -> Check:
    """The mirror image with all centres inverted is denoised to the mirror image."""
    batch = _noised(single(source), sigma)
    assert batch.stereo is not None
    sign = batch.stereo[:, 4:]
    # Tags of double bonds (+-2) are the same in the mirror.
    stereo = torch.cat([batch.stereo[:, :4], torch.where(sign.abs() == 1, -sign, sign)], dim=1)
    mirror = _reflection()
    reflected = replace(batch, positions=batch.positions @ mirror, stereo=stereo)
    deviation = _largest(_denoise(model, reflected, sigma) - _denoise(model, batch, sigma) @ mirror)
    return Check("denoiser reflection", deviation, ROUNDING, "Angstrom", "mirror image with inverted centres")


# ---------------------------------------------------------------------- parts


def _double(model: ConsistentModel) -> ConsistentModel:
    """The model itself if it is in float64, else a copy that is."""
    return model if model.dtype == torch.float64 else copy.deepcopy(model).to(dtype=torch.float64)


def _predict(model: ConsistentModel, batch: StructureBatch, level: str | None, *, stress: bool = False) -> Prediction:
    found = _double(model).predict(batch, level=level, stress=stress)
    on_cpu = {name: value.cpu() for name, value in vars(found).items() if value is not None}
    return replace(found, **on_cpu)


def _atomic_energies(model: ConsistentModel, structures: Sequence[StructureBatch], level: str | None) -> Tensor:
    """``[n, n_atoms]`` energies of the atoms of one structure in several places, eV, a bounded number at once.

    Their differences are exact to the digits of one atom's energy, those of totals only to the digits of the total.
    """
    model, at_once = _double(model), max(1, 2000 // structures[0].n_atoms)
    parts = [structures[i : i + at_once] for i in range(0, len(structures), at_once)]
    energies = [model.predict(StructureBatch.concatenate(p), level=level, forces=False).energies for p in parts]
    return torch.cat(energies).view(len(structures), -1).cpu()


def _denoise(model: ConsistentModel, batch: StructureBatch, sigma: float) -> Tensor:
    return denoise_once(_double(model), batch.to(model.device), sigma).cpu()


def _forces(prediction: Prediction) -> Tensor:
    assert prediction.forces is not None
    return prediction.forces


def _deviation(found: Prediction, expected: Prediction) -> float:
    """Largest deviation of energies (eV) and force components (eV/Angstrom)."""
    energy, forces = found.energy - expected.energy, _forces(found) - _forces(expected)
    return _largest(torch.cat([energy.reshape(-1), forces.reshape(-1)]))


def _largest(difference: Tensor) -> float:
    """Largest absolute element; NaN if there is one (Python's ``max`` could pass over it)."""
    return float(difference.abs().max())


def _rotation() -> Tensor:
    """A rotation by 143 degrees about an axis without symmetry, float64 ``[3, 3]``."""
    x, y, z = 0.71, 1.93, -1.4
    return torch.matrix_exp(torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64))


def _reflection() -> Tensor:
    """A reflection in a plane without symmetry, float64 ``[3, 3]``."""
    return _rotation() @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)) @ _rotation().T


def _transformed(batch: StructureBatch, matrix: Tensor) -> StructureBatch:
    """Positions and cell times a ``[3, 3]`` matrix from the right; the symmetric strains need no transposition."""
    return replace(batch, positions=batch.positions @ matrix, cell=batch.cell @ matrix)


def _open(batch: StructureBatch) -> StructureBatch:
    """The same atoms without cell."""
    return replace(batch, cell=torch.zeros_like(batch.cell), pbc=torch.zeros_like(batch.pbc))


def _noised(batch: StructureBatch, sigma: float) -> StructureBatch:
    return batch.with_positions(noised(batch.positions, batch.graph, sigma, [0]))
