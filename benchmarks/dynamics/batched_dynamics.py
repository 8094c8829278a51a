"""Molecular dynamics of many molecules at once: velocity Verlet, and BAOAB where there is a thermostat.

BAOAB: Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34. With zero friction it is velocity Verlet. Everything
is float64 on the device of the model; units are eV, Angstrom and u, and hence 10.18 fs of time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.constants import atomic_mass, elementary_charge
from torch import Tensor

from consistent_calc.elements import covalent_radii
from consistent_calc.errors import InvalidStructureError
from consistent_calc.model import ConsistentModel
from consistent_calc.structures import StructureBatch
from consistent_calc.units import BOLTZMANN

#: One femtosecond in Angstrom sqrt(u/eV).
FEMTOSECOND = 1e-5 * float(np.sqrt(elementary_charge / atomic_mass))
#: Standard atomic weights (IUPAC 2021, u).
MASSES = {1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999, 9: 18.998, 15: 30.974, 16: 32.06, 17: 35.45, 35: 79.904, 53: 126.9}
#: Two atoms are bonded below the first multiple of the sum of their radii; the bond is broken beyond the second, and a
#: new one is made below the third.
BONDED, BROKEN, MADE = 1.25, 1.5, 1.15
#: A molecule with a larger force (eV/Angstrom) has exploded.
EXPLOSION = 100.0


class Dynamics:
    """Molecules in motion. One that explodes is put back to its start and left at rest, so that the others go on.

    Args:
        model: gives forces, in float64.
        batch: molecules at their start.
        timestep: fs.
        seed: of velocities and thermostat.

    Attributes:
        positions, velocities, forces: ``[n_atoms, 3]``.
        energy: ``[n_graphs]``, potential energy, eV.
        peak_force: ``[n_graphs]``, the largest force on an atom so far, of molecules alive, eV/Angstrom.
        alive: bool ``[n_graphs]``.
        step: since the start.
    """

    def __init__(self, model: ConsistentModel, batch: StructureBatch, timestep: float, seed: int) -> None:
        self.model, self.batch = model, batch.to(model.device, torch.float64)
        self.timestep, self.seed, self.step = timestep * FEMTOSECOND, seed, 0
        self.positions = self.batch.positions
        masses = [[MASSES[z]] for z in self.batch.numbers.tolist()]
        self.masses = torch.tensor(masses, dtype=torch.float64, device=model.device)
        self.velocities = torch.zeros_like(self.positions)
        self.alive = torch.ones(batch.n_graphs, dtype=torch.bool, device=model.device)
        self.energy, self.forces = self._evaluate()
        self.peak_force = self._largest_force()

    def thermalize(self, temperature: float) -> None:
        """Velocities of a temperature (Kelvin), without overall translation."""
        self.velocities = self._noise(-1) * (BOLTZMANN * temperature / self.masses).sqrt()
        momentum = self._sum(self.velocities * self.masses) / self._sum(self.masses)
        self.velocities = self.velocities - momentum[self.batch.graph]

    def run(self, steps: int, temperature: float = 0.0, friction: float = 0.0) -> None:
        """Some steps of BAOAB; friction in 1/fs, temperature in Kelvin."""
        half = self.timestep / 2
        kept = float(np.exp(-friction * self.timestep / FEMTOSECOND))
        for _ in range(steps):
            self.velocities = self.velocities + half * self.forces / self.masses
            self.positions = self.positions + half * self.velocities
            if friction:
                kick = (BOLTZMANN * temperature * (1 - kept**2) / self.masses).sqrt()
                self.velocities = kept * self.velocities + kick * self._noise(self.step)
            self.positions = self.positions + half * self.velocities
            self.energy, self.forces = self._evaluate()
            self.velocities = self.velocities + half * self.forces / self.masses
            largest = self._largest_force()
            self._stop(~(largest < EXPLOSION))  # true of NaN, too
            self.peak_force = torch.where(self.alive, torch.maximum(self.peak_force, largest), self.peak_force)
            self.step += 1

    def stop_rigid_motion(self) -> None:
        """Takes overall translation and rotation off the velocities."""
        total = self._sum(self.masses)
        centre = self._sum(self.masses * self.positions) / total
        x = self.positions - centre[self.batch.graph]
        v = self.velocities - (self._sum(self.masses * self.velocities) / total)[self.batch.graph]
        angular = self._sum(self.masses * torch.linalg.cross(x, v))
        square = (x * x).sum(1)[:, None, None] * torch.eye(3).to(x)
        inertia = self._sum((self.masses[:, :, None] * (square - x[:, :, None] * x[:, None, :])).flatten(1))
        # The pseudoinverse, because linear molecules do not turn about their axis.
        rotation = (torch.linalg.pinv(inertia.view(-1, 3, 3), hermitian=True) @ angular[:, :, None])[:, :, 0]
        self.velocities = v - torch.linalg.cross(rotation[self.batch.graph], x)

    def kinetic_energy(self) -> Tensor:
        """``[n_graphs]``, eV."""
        return self._sum(0.5 * self.masses * self.velocities.square()).sum(1)

    # ------------------------------------------------------------------ parts

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """Energies and forces; molecules that the model rejects are stopped."""
        try:
            found = self.model.predict(self.batch.with_positions(self.positions))
        except InvalidStructureError:
            self._stop(torch.tensor([self._rejected(k) for k in range(self.batch.n_graphs)]))
            found = self.model.predict(self.batch.with_positions(self.positions))
        assert found.forces is not None
        return found.energy, found.forces.double()

    def _rejected(self, k: int) -> bool:
        try:
            self.model.predict(self.batch.with_positions(self.positions)[k], forces=False)
        except InvalidStructureError:
            return True
        return False

    def _largest_force(self) -> Tensor:
        """On an atom of each molecule, ``[n_graphs]``, eV/Angstrom."""
        zero = torch.zeros(self.batch.n_graphs, dtype=torch.float64, device=self.positions.device)
        return zero.scatter_reduce(0, self.batch.graph, self.forces.norm(dim=1), "amax")

    def _stop(self, dead: Tensor) -> None:
        """Puts molecules back to their start, at rest."""
        self.alive = self.alive & ~dead.to(self.alive.device)
        moving = self.alive[self.batch.graph][:, None]
        self.positions = torch.where(moving, self.positions, self.batch.positions)
        self.velocities = torch.where(moving, self.velocities, 0.0)
        self.forces = torch.where(moving, self.forces, 0.0)

    def _noise(self, step: int) -> Tensor:
        """Standard normal ``[n_atoms, 3]``: of the seed and the step alone, so that a resumed run draws the same."""
        generator = torch.Generator(device=self.positions.device).manual_seed(self.seed * 10**8 + step)
        return torch.randn(self.positions.shape, dtype=torch.float64, device=self.positions.device, generator=generator)

    def _sum(self, values: Tensor) -> Tensor:
        """Sums ``[n_atoms, k]`` over the atoms of each molecule."""
        return values.new_zeros(self.batch.n_graphs, values.shape[1]).index_add(0, self.batch.graph, values)

    def state(self) -> dict[str, NDArray[Any]]:
        """What :meth:`resume` needs."""
        out = {name: getattr(self, name).cpu().numpy() for name in ("positions", "velocities", "peak_force", "alive")}
        return out | {"step": np.array(self.step)}

    def resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from a state of the same molecules."""
        for name in ("positions", "velocities", "peak_force", "alive"):
            setattr(self, name, torch.from_numpy(state[name]).to(self.positions.device))
        self.step = int(state["step"])
        self.energy, self.forces = self._evaluate()


class BondCheck:
    """Watches the bonds that molecules have at their start.

    Args:
        batch: molecules at their start.
    """

    def __init__(self, batch: StructureBatch) -> None:
        ends = batch.counts.cumsum(0).tolist()
        pairs = [
            torch.triu_indices(n, n, 1, device=batch.graph.device) + end - n
            for n, end in zip(batch.counts.tolist(), ends, strict=True)
        ]
        self._i, self._j = torch.cat(pairs, dim=1)
        self._owner, self._n = batch.graph[self._i], batch.n_graphs
        radii = torch.from_numpy(covalent_radii(batch.numbers.tolist())).to(batch.numbers.device)
        self._sum_of_radii = radii[self._i] + radii[self._j]
        self._bonded = self._ratios(batch.positions) < BONDED

    def changed(self, positions: Tensor) -> Tensor:
        """Which molecules have broken or made a bond, bool ``[n_graphs]``."""
        ratios = self._ratios(positions)
        wrong = torch.where(self._bonded, ratios > BROKEN, ratios < MADE)
        return torch.zeros(self._n, dtype=torch.int64, device=wrong.device).index_add(0, self._owner, wrong.long()) > 0

    def _ratios(self, positions: Tensor) -> Tensor:
        return (positions[self._i] - positions[self._j]).norm(dim=1) / self._sum_of_radii
