"""The configuration of a training run: a TOML file read into dataclasses."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from consistent_calc.errors import ConfigurationError
from consistent_calc.settings import not_negative, positive


@dataclass(frozen=True)
class DataSource:
    """A store that a task learns from; the structure task takes its equilibrium structures.

    Attributes:
        store: path of the HDF5 store, relative to the configuration file.
        atoms: atoms a batch takes from it (its share of the training).
        forces: whether the energy task learns its forces too.
    """

    store: str
    atoms: int
    forces: bool = True

    def __post_init__(self) -> None:
        positive(self, "atoms", where=self.store)


@dataclass(frozen=True)
class Architecture:
    """The network, see :class:`consistent_calc.model.ModelConfig`; elements and levels follow from the data."""

    cutoff: float = 5.0
    channels: tuple[int, ...] = (128, 64, 32)
    n_layers: int = 3
    radial_size: int = 16
    mean_neighbors: float = 20.0

    def __post_init__(self) -> None:
        positive(self, "cutoff", "n_layers", "radial_size", "mean_neighbors", where="model")
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise ConfigurationError(
                f"model: channels must be positive numbers, one a degree from 0 to at least 1, got {self.channels!r}."
            )
        if not math.isfinite(self.cutoff):
            raise ConfigurationError(f"model: cutoff must be finite, got {self.cutoff!r}.")


@dataclass(frozen=True)
class Weights:
    """Factors of the losses, which have the units of their arguments (eV, eV/Angstrom, e, e Angstrom)."""

    energy: float = 2.0
    forces: float = 1.0
    charges: float = 1.0
    dipole: float = 0.1
    structure: float = 0.1
    optimality: float = 0.0
    score: float = 0.0

    def __post_init__(self) -> None:
        not_negative(self, *(f.name for f in dataclasses.fields(self)), where="weights")


@dataclass(frozen=True)
class Consistency:
    """Optimality and score consistency, which act where their weights are above zero.

    Attributes:
        optimality: form of the loss, ``comparison``, ``gap``, ``slope`` or ``newton``
            (:mod:`consistent_calc.losses.optimality`). The last is a denoising loss towards the minimum of the energy
            next to the labelled structure; it takes the place of the structure loss, whose weight is best zero then.
        optimality_noise: lowest and highest noise level of the structures it acts on, Angstrom.
        displacement: largest standard deviation of the displacement of the comparison, Angstrom.
        max_step: of ``newton``, Angstrom.
        score: form of the loss, ``noisy`` (forces at the noisy positions) or ``clean`` (target-score identity).
        score_noise: lowest and highest noise level, Angstrom.
        temperature_energy: kT of the score, eV.
        level: level of theory whose energy is taken; None is the default level.
    """

    optimality: str = "comparison"
    optimality_noise: tuple[float, ...] = (1.0, 100.0)
    displacement: float = 0.1
    max_step: float = 0.2
    score: str = "noisy"
    score_noise: tuple[float, ...] = (0.0, 0.3)
    temperature_energy: float = 0.1
    level: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("optimality", ("comparison", "gap", "slope", "newton")), ("score", ("noisy", "clean"))):
            if getattr(self, name) not in known:
                raise ConfigurationError(f"consistency: {name} must be one of {', '.join(known)}.")
        for name in ("optimality_noise", "score_noise"):
            if len(getattr(self, name)) != 2:
                raise ConfigurationError(f"consistency: {name} must be [lowest, highest].")
        positive(self, "displacement", "max_step", "temperature_energy", where="consistency")


@dataclass(frozen=True)
class Noise:
    """Noise of the structure task: Gaussian with log-normal levels in Angstrom, or samples of the harmonic prior.

    Attributes:
        median, spread, low, high: see :func:`consistent_calc.diffusion.noise.training_levels`.
        prior_share: fraction of the structures that is replaced by a sample of the harmonic prior.
        prior_level: noise level by which the model knows that it looks at one, above ``high``.
    """

    median: float = 0.25
    spread: float = 1.0
    low: float = 0.01
    high: float = 5.0
    prior_share: float = 0.0
    prior_level: float = 3.0

    def __post_init__(self) -> None:
        positive(self, "median", "low", "high", "prior_level", where="noise")
        not_negative(self, "spread", where="noise")
        if not 0 <= self.prior_share <= 1:
            raise ConfigurationError(f"noise: prior_share must be between 0 and 1, got {self.prior_share!r}.")
        if self.prior_share > 0 and not self.prior_level > self.high:
            raise ConfigurationError(
                f"noise: prior_level = {self.prior_level:g} must be above high = {self.high:g}, to tell samples of the "
                "prior from Gaussian noise; lower high (2 is enough, the prior takes its place)."
            )

    @property
    def learned_prior_level(self) -> float | None:
        """``prior_level`` if the run learns the prior at all."""
        return self.prior_level if self.prior_share > 0 else None


@dataclass(frozen=True)
class Schedule:
    """Length and optimiser. Training ends at ``steps`` or after ``hours``, whichever comes first.

    The learning rate warms up linearly and then falls as a cosine of the fraction used up, of steps or of hours. The
    structure task is learned from in the first of every ``structure_every`` steps.
    """

    steps: int = 1_000_000
    hours: float = 1000.0
    learning_rate: float = 1e-3
    warmup_steps: int = 500
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    ema_decay: float = 0.999
    checkpoint_minutes: float = 5.0
    validation_minutes: float = 10.0
    validation_structures: int = 500
    structure_every: int = 1

    def __post_init__(self) -> None:
        positive(self, "steps", "hours", "learning_rate", "clip_norm", "structure_every", where="schedule")
        positive(self, "checkpoint_minutes", "validation_minutes", "validation_structures", where="schedule")
        not_negative(self, "warmup_steps", "weight_decay", where="schedule")
        if not 0 <= self.ema_decay < 1:
            raise ConfigurationError(f"schedule: ema_decay must be at least 0 and below 1, got {self.ema_decay!r}.")


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Attributes:
        output: folder of the run, relative to the configuration file.
        energy, structure: data of the two tasks; the level of the first energy store is the default of a new model.
        start: checkpoint whose weights the run starts from (a second stage), relative to the configuration file, or the
            name of a shipped one; its architecture is taken, and elements and levels that only the data know are added.
        seed: of weights, order of the data and noise.
        device: "cpu" or "cuda".
        compile: whether to compile the two network functions.
        threads: CPU threads; None leaves torch's choice.
    """

    output: str
    energy: tuple[DataSource, ...]
    structure: tuple[DataSource, ...] = ()
    model: Architecture = field(default_factory=Architecture)
    weights: Weights = field(default_factory=Weights)
    noise: Noise = field(default_factory=Noise)
    consistency: Consistency = field(default_factory=Consistency)
    schedule: Schedule = field(default_factory=Schedule)
    start: str | None = None
    seed: int = 0
    device: str = "cpu"
    compile: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        not_negative(self, "seed")
        positive(self, "threads")
        prior = self.noise.learned_prior_level
        if prior is not None and self.weights.score > 0 and self.consistency.score_noise[1] >= prior:
            raise ConfigurationError(
                f"consistency: score_noise reaches up to the harmonic prior (noise: prior_level = {prior:g}), which is "
                "no Gaussian noise and has no such score; lower its upper end."
            )


T = TypeVar("T")


def read_config(path: str | Path) -> tuple[TrainingConfig, Path]:
    """Reads a TOML file.

    Returns:
        The configuration and the folder that its relative paths start from.

    Raises:
        ConfigurationError: not TOML, unknown or missing keys, values of the wrong type.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"There is no configuration file {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not a TOML file: {error}") from None
    config = _build(TrainingConfig, table, str(path.name))
    if not config.energy:
        raise ConfigurationError(f"{path.name}: at least one [[energy]] data set is needed.")
    return config, path.resolve().parent


def _build(kind: type[T], table: Any, where: str) -> T:
    """A dataclass from a TOML table, recursively."""
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where} must be a table, got {table!r}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise ConfigurationError(f"{where}: unknown entry {', '.join(unknown)}; known are {', '.join(fields)}.")
    required = {f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - set(table)):
        raise ConfigurationError(f"{where}: missing entry {', '.join(missing)}.")
    hints = get_type_hints(kind)
    return kind(**{name: _convert(hints[name], value, f"{where}: {name}") for name, value in table.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A TOML value as the annotated type."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    arguments = get_args(hint)
    if arguments and arguments[-1] is Ellipsis:
        if not isinstance(value, list):
            raise ConfigurationError(f"{where} must be a list, got {value!r}.")
        return tuple(_convert(arguments[0], item, where) for item in value)
    accepted = arguments or (hint,)
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        names = " or ".join(t.__name__ for t in accepted)
        raise ConfigurationError(f"{where} must be {names}, got {value!r}.")
    return value
