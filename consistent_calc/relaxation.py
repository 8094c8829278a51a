"""Relaxation of many structures at once; a structure that is done leaves the batch and the next one enters.

The optimiser is L-BFGS (Nocedal & Wright, Numerical Optimization, 2nd ed., algorithm 7.4) on arrays padded to
``[n_slots, n_max, 3]``, so that one model evaluation moves all structures. Its initial inverse Hessian is not a scaled
identity but a model Hessian of molecules (Lindh, Bernhardsson, Karlstrom & Malmqvist, Chem. Phys. Lett. 241 (1995)
423), built anew at every step: it knows that bonds are stiff and torsions soft before the first force is seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from consistent_calc.errors import ConfigurationError, InvalidStructureError
from consistent_calc.model_hessian import model_hessian
from consistent_calc.structures import StructureBatch

if TYPE_CHECKING:
    from consistent_calc.model import ConsistentModel

#: Pairs (step, change of gradient) that L-BFGS remembers.
HISTORY = 10
#: Largest displacement of an atom in one step, Angstrom (as in ASE's optimisers).
MAX_STEP = 0.2
#: Stiffness in eV/Angstrom^2 where the model Hessian does not apply (ASE's ``alpha``).
STIFFNESS = 70.0
#: Bounds on the scale of the initial inverse Hessian.
SCALES = (0.01, 2.0)
#: A step that raises the energy by more (eV) is taken back; smaller rises may be noise of single precision.
ENERGY_TOLERANCE = 1e-3
#: Below this trust radius (Angstrom) a step is kept anyway, lest a kink of the surface stop the structure for good.
SMALLEST_STEP = 1e-3
#: Largest structure for which a dense ``[3n, 3n]`` matrix is worth its factorisation.
MAX_ATOMS = 300


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Outcome of :func:`relax`, in the order of the input.

    Attributes:
        batch: the structures at their final positions, float64, on the device of the input.
        initial_energy, energy: float64 ``[n_graphs]``, eV, before and after; NaN where never evaluated.
        fmax: float64 ``[n_graphs]``, the largest force on an atom, eV/Angstrom; NaN where never evaluated.
        steps: int64 ``[n_graphs]``, evaluations of energy and forces after the first.
        converged: bool ``[n_graphs]``.
        failed: why a structure has no usable end point, else None. A structure that ran out of steps is no failure:
            it is only not converged.
    """

    batch: StructureBatch
    initial_energy: Tensor
    energy: Tensor
    fmax: Tensor
    steps: Tensor
    converged: Tensor
    failed: tuple[str | None, ...]


#: Called with the index of a finished structure and its own one-structure :class:`Relaxation`.
Callback = Callable[[int, Relaxation], None]


def relax(
    model: ConsistentModel,
    batch: StructureBatch,
    *,
    level: str | None = None,
    fmax: float = 0.01,
    max_steps: int = 500,
    max_time: float | None = None,
    max_atoms_per_batch: int = 4096,
    callback: Callback | None = None,
) -> Relaxation:
    """Moves atoms until no force exceeds ``fmax``; cells are kept.

    Structures are independent: each gets the steps it would get alone. One that turns to NaN, or that the model
    rejects, fails alone.

    Args:
        model: gives energies (eV) and forces (eV/Angstrom).
        batch: the structures; bonds are not needed.
        level: level of theory, None for the model's default.
        fmax: threshold of the largest force on an atom, eV/Angstrom.
        max_steps: evaluations after the first, for each structure.
        max_time: seconds for all; structures not done by then are returned unconverged.
        max_atoms_per_batch: bounds the memory; counts atoms with the padding to the largest structure. A single
            structure may be larger.
        callback: called whenever a structure is done, in order of completion.

    Raises:
        ConfigurationError: a negative threshold or number of steps, or NaN.
    """
    if not fmax >= 0 or max_steps < 0:
        raise ConfigurationError(f"fmax and max_steps must be at least 0, got {fmax!r} and {max_steps!r}.")
    run = _Run(model, batch, level, fmax, max_steps, callback)
    deadline = math.inf if max_time is None else time.monotonic() + max_time
    sizes = batch.counts.tolist()
    order = [i for i in torch.argsort(batch.counts, descending=True, stable=True).tolist() if sizes[i] > 0]
    # Structures too large for the dense model Hessian go apart, so that they do not take it from the others.
    for queue in ([i for i in order if sizes[i] > MAX_ATOMS], [i for i in order if sizes[i] <= MAX_ATOMS]):
        pool = run.enter(None, queue, max_atoms_per_batch)
        while pool is not None and time.monotonic() < deadline:
            pool = run.advance(pool)
            pool = run.enter(pool, queue, max_atoms_per_batch)
        if pool is not None:
            run.give_up(pool)
    return run.result()


@dataclass
class _Pool:
    """The structures under way; every tensor has one row a structure, coordinates are padded to ``[B, n, 3]``."""

    index: Tensor  # [B] place in the input
    numbers: Tensor  # [B, n], 0 for padding
    dense: Tensor  # [B] whether the model Hessian applies
    trial: Tensor  # positions to evaluate next
    position: Tensor  # last accepted positions, their energy and forces
    energy: Tensor  # [B], inf before the first evaluation, so that it is accepted
    force: Tensor
    first_energy: Tensor  # [B]
    trust: Tensor  # [B] largest displacement allowed
    steps: Tensor  # [B] evaluations after the first
    s: Tensor  # [B, HISTORY, 3n] steps, newest last; zero rows are unused
    y: Tensor  # [B, HISTORY, 3n] changes of the gradient
    rho: Tensor  # [B, HISTORY] 1 / s.y, 0 for unused rows

    def take(self, rows: Tensor) -> None:
        """Keeps these rows and trims the padding."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name)[rows])
        n = int((self.numbers > 0).sum(1).max())
        for name in ("numbers", "trial", "position", "force"):
            setattr(self, name, getattr(self, name)[:, :n])
        self.s, self.y = self.s[:, :, : 3 * n], self.y[:, :, : 3 * n]

    def append(self, other: _Pool) -> None:
        """Adds the rows of another pool; the narrower one is padded."""
        extra = self.numbers.shape[1] - other.numbers.shape[1]
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name in ("numbers", "trial", "position", "force", "s", "y"):
                padding = {"numbers": (0, extra), "s": (0, 3 * extra), "y": (0, 3 * extra)}
                theirs = torch.nn.functional.pad(theirs, padding.get(f.name, (0, 0, 0, extra)))
            setattr(self, f.name, torch.cat([mine, theirs]))


class _Run:
    """One call of :func:`relax`: its options, and the results as they come."""

    def __init__(
        self,
        model: ConsistentModel,
        batch: StructureBatch,
        level: str | None,
        fmax: float,
        max_steps: int,
        callback: Callback | None,
    ) -> None:
        self.model, self.level, self.fmax, self.max_steps, self.callback = model, level, fmax, max_steps, callback
        self.input = batch
        # The energy does not depend on the bonds, and tables of bonds make selection slow.
        self.bare = replace(batch, bonds=None, stereo=None).to(model.device, torch.float64)
        self.sizes = batch.counts.tolist()
        self.starts = [0, *batch.counts.cumsum(0).tolist()]
        n = batch.n_graphs
        self.positions = batch.positions.detach().double().cpu().clone()
        self.initial_energy, self.energy, self.largest = torch.full((3, n), math.nan, dtype=torch.float64)
        self.steps = torch.zeros(n, dtype=torch.int64)
        self.converged = torch.zeros(n, dtype=torch.bool)
        self.failed: list[str | None] = [
            "time_over: not started" if size else "invalid_structure: no atoms" for size in self.sizes
        ]
        self._template: tuple[list[int], StructureBatch] | None = None

    # ------------------------------------------------------------------ the queue

    def enter(self, pool: _Pool | None, queue: list[int], max_atoms: int) -> _Pool | None:
        """Fills the pool from the queue (largest first) as far as the bound on padded atoms allows."""
        width = pool.numbers.shape[1] if pool is not None else self.sizes[queue[0]] if queue else 0
        n_slots = 0 if pool is None else len(pool.index)
        free = max(max_atoms // max(width, 1), 1) - n_slots
        if free <= 0 or not queue:
            return pool
        newcomers, queue[:] = queue[:free], queue[free:]
        entering = self._new_pool(newcomers)
        if pool is None:
            return entering
        pool.append(entering)
        return pool

    def _new_pool(self, newcomers: list[int]) -> _Pool:
        device, double = self.model.device, torch.float64
        b, n = len(newcomers), max(self.sizes[i] for i in newcomers)
        numbers = torch.zeros(b, n, dtype=torch.int64, device=device)
        positions = torch.zeros(b, n, 3, dtype=double, device=device)
        for row, i in enumerate(newcomers):
            atoms = slice(self.starts[i], self.starts[i + 1])
            numbers[row, : self.sizes[i]] = self.bare.numbers[atoms].clamp(min=1)  # 0 is left to the padding
            positions[row, : self.sizes[i]] = self.bare.positions[atoms]
        periodic = self.bare.pbc[newcomers].any(1)
        history = torch.zeros(b, HISTORY, 3 * n, dtype=double, device=device)
        return _Pool(
            index=torch.tensor(newcomers, device=device),
            numbers=numbers,
            dense=~periodic & (n <= MAX_ATOMS),
            trial=positions,
            position=positions,
            energy=torch.full((b,), math.inf, dtype=double, device=device),
            force=torch.zeros_like(positions),
            first_energy=torch.full((b,), math.nan, dtype=double, device=device),
            trust=torch.full((b,), MAX_STEP, dtype=double, device=device),
            steps=torch.full((b,), -1, dtype=torch.int64, device=device),
            s=history,
            y=history,
            rho=history[:, :, 0],
        )

    # ------------------------------------------------------------------ one step

    def advance(self, pool: _Pool) -> _Pool | None:
        """Evaluates the trial positions, lets finished structures go and moves the others."""
        energy, force, reasons = self._evaluate(pool)
        bad = ~(torch.isfinite(energy) & torch.isfinite(force).all(2).all(1))
        for row in bad.nonzero()[:, 0].tolist():
            self._record(pool, row, reasons.get(row, "non_finite: the energy or the forces became NaN or infinite"))
        _accept(pool, energy.nan_to_num(), force.nan_to_num())
        largest = pool.force.norm(dim=2).max(dim=1).values
        done = ~bad & ((largest < self.fmax) | (pool.steps >= self.max_steps))
        for row in done.nonzero()[:, 0].tolist():
            self._record(pool, row, None)
        staying = (~bad & ~done).nonzero()[:, 0]
        if len(staying) == 0:
            return None
        if len(staying) < len(bad):
            pool.take(staying)
        _propose(pool)
        return pool

    def _evaluate(self, pool: _Pool) -> tuple[Tensor, Tensor, dict[int, str]]:
        """Energies ``[B]``, padded forces ``[B, n, 3]`` and, by row, why the model rejected a structure."""
        indices = pool.index.tolist()
        if self._template is None or self._template[0] != indices:
            self._template = (indices, self.bare.select(indices))
        mask = pool.numbers > 0
        batch = self._template[1].with_positions(pool.trial[mask])
        force = torch.zeros_like(pool.trial)
        try:
            energy, force[mask] = self._predict(batch)
        except InvalidStructureError:
            return self._evaluate_singly(pool, batch)
        return energy, force, {}

    def _evaluate_singly(self, pool: _Pool, batch: StructureBatch) -> tuple[Tensor, Tensor, dict[int, str]]:
        """Finds the structures that the model rejects, so that they do not stop the others."""
        energy, force = torch.full_like(pool.energy, math.nan), torch.zeros_like(pool.trial)
        reasons: dict[int, str] = {}
        for row in range(len(energy)):
            try:
                one, flat = self._predict(batch[row])
            except InvalidStructureError as error:
                reasons[row] = f"{error.reason}: {error}"
            else:
                energy[row], force[row, : len(flat)] = one[0], flat
        return energy, force, reasons

    def _predict(self, batch: StructureBatch) -> tuple[Tensor, Tensor]:
        prediction = self.model.predict(batch, level=self.level, forces=True)
        if prediction.forces is None:
            raise TypeError("The model's predict(forces=True) returned no forces.")
        return prediction.energy.double(), prediction.forces.double()

    # ------------------------------------------------------------------ results

    def give_up(self, pool: _Pool) -> None:
        """Records the structures that the time limit has caught under way."""
        for row in range(len(pool.index)):
            if bool(torch.isfinite(pool.energy[row])):
                self._record(pool, row, None)

    def _record(self, pool: _Pool, row: int, reason: str | None) -> None:
        i = int(pool.index[row])
        self.failed[i] = reason
        self.positions[self.starts[i] : self.starts[i + 1]] = pool.position[row, : self.sizes[i]].cpu()
        self.steps[i] = pool.steps[row].clamp(min=0)
        self.initial_energy[i] = pool.first_energy[row]
        if bool(torch.isfinite(pool.energy[row])):
            self.energy[i] = pool.energy[row]
            self.largest[i] = pool.force[row].norm(dim=1).max()
            self.converged[i] = reason is None and bool(self.largest[i] < self.fmax)
        if self.callback is not None:
            self.callback(i, self.result(only=i))

    def result(self, only: int | None = None) -> Relaxation:
        """What is known so far, of all structures or of one."""
        rows = slice(None) if only is None else slice(only, only + 1)
        atoms = slice(None) if only is None else slice(self.starts[only], self.starts[only + 1])
        batch = (self.input if only is None else self.input[only]).to(dtype=torch.float64)
        return Relaxation(
            batch=batch.with_positions(self.positions[atoms].to(batch.positions.device)),
            initial_energy=self.initial_energy[rows],
            energy=self.energy[rows],
            fmax=self.largest[rows],
            steps=self.steps[rows],
            converged=self.converged[rows],
            failed=tuple(self.failed[rows]),
        )


def _accept(pool: _Pool, energy: Tensor, force: Tensor) -> None:
    """Takes the evaluated steps or takes them back, and learns the curvature along them either way."""
    s = (pool.trial - pool.position).flatten(1)
    y = (pool.force - force).flatten(1)
    sy = (s * y).sum(1)
    # Only pairs of clearly positive curvature keep the inverse Hessian positive definite.
    usable = (sy > 1e-8 * s.norm(dim=1) * y.norm(dim=1)) & torch.isfinite(pool.energy)
    pool.s = torch.cat([pool.s[:, 1:], (s * usable[:, None])[:, None]], dim=1)
    pool.y = torch.cat([pool.y[:, 1:], (y * usable[:, None])[:, None]], dim=1)
    pool.rho = torch.cat([pool.rho[:, 1:], torch.where(usable, 1 / sy.clamp_min(1e-30), 0.0)[:, None]], dim=1)

    length = s.view_as(force).norm(dim=2).max(dim=1).values
    good = (energy <= pool.energy + ENERGY_TOLERANCE) | (length <= SMALLEST_STEP)
    pool.trust = torch.where(good, (2 * pool.trust).clamp(max=MAX_STEP), (0.4 * length).clamp(min=SMALLEST_STEP))
    pool.first_energy = torch.where(pool.steps < 0, energy, pool.first_energy)
    pool.position = torch.where(good[:, None, None], pool.trial, pool.position)
    pool.force = torch.where(good[:, None, None], force, pool.force)
    pool.energy = torch.where(good, energy, pool.energy)
    pool.steps = pool.steps + 1


def _propose(pool: _Pool) -> None:
    """Sets the trial positions by the two-loop recursion of L-BFGS, within the trust radius."""
    q = pool.force.flatten(1).clone()
    weights = []
    for k in reversed(range(HISTORY)):
        weight = pool.rho[:, k] * (pool.s[:, k] * q).sum(1)
        q = q - weight[:, None] * pool.y[:, k]
        weights.append(weight)
    step = _initial_step(pool, q)
    for k, weight in zip(range(HISTORY), reversed(weights), strict=True):
        step = step + pool.s[:, k] * (weight - pool.rho[:, k] * (pool.y[:, k] * step).sum(1))[:, None]
    step = step.view_as(pool.force)
    length = step.norm(dim=2).max(dim=1).values
    scale = (pool.trust / length.clamp_min(1e-12)).clamp(max=1.0)
    pool.trial = pool.position + step * scale[:, None, None]


def _initial_step(pool: _Pool, q: Tensor) -> Tensor:
    """Applies the initial inverse Hessian of each structure to ``q [B, 3n]``, scaled to the last curvature seen.

    The scale ``s.y / (y H0 y)`` (Nocedal & Wright, equation 7.20) is near one for molecules; it saves structures that
    the model Hessian mistakes, such as metal-like clusters.
    """
    both = torch.stack([q, pool.y[:, -1]], dim=2)
    solved = both / STIFFNESS
    if bool(pool.dense.any()):
        factor = torch.linalg.cholesky(model_hessian(pool.numbers, pool.position))
        solved = torch.where(pool.dense[:, None, None], torch.cholesky_solve(both, factor), solved)
    step, back = solved.unbind(2)
    rho = pool.rho[:, -1]
    scale = 1 / (rho * (pool.y[:, -1] * back).sum(1)).clamp_min(1e-30)
    return step * torch.where(rho > 0, scale.clamp(*SCALES), 1.0)[:, None]
