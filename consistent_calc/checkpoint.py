"""Checkpoints: weights in safetensors, everything else in a JSON card beside them. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from consistent_calc.errors import CheckpointError, ConfigurationError
from consistent_calc.files import replacing
from consistent_calc.model import ConsistentModel, ModelConfig

FORMAT = "consistent_calc checkpoint"
FORMAT_VERSION = 1

#: Name of the checkpoint that ships with the package.
DEFAULT = "base"


def save_model(model: ConsistentModel, path: str | Path, record: dict[str, Any] | None = None) -> Path:
    """Writes ``<path>.safetensors`` and ``<path>.json``, each replaced in one step.

    Args:
        model: what to save.
        path: without a suffix, or with either of the two.
        record: JSON-able account of training data, duration and measured errors.

    Returns:
        The path of the card.
    """
    weights_path, card_path = _paths(path)
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    data = save(state)
    card = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": dataclasses.asdict(model.config),
        "units": {"energy": "eV", "length": "Angstrom", "charge": "e"},
        "weights": weights_path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "record": record or {},
    }
    with replacing(weights_path) as new:
        new.write_bytes(data)
    with replacing(card_path) as new:
        new.write_text(json.dumps(card, indent=2) + "\n")
    return card_path


def load_model(
    path: str | Path | None = None, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> ConsistentModel:
    """Loads a checkpoint, ready for use.

    Args:
        path: of the card, the weights, or either without its suffix. Where there is no such file, the name of a
            checkpoint shipped with the package; None is its default one.
        device: "cpu", "cuda", ...
        dtype: precision of the network; the atomic reference energies are float64 always.

    Raises:
        CheckpointError: missing, truncated or altered files, or another format.
        ConfigurationError: there is no such device here.
    """
    weights_path, card_path = _find(path)
    card = read_card(card_path)
    try:
        data = weights_path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"The weights {weights_path} cannot be read: {error.strerror}.") from None
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise CheckpointError(
            f"{weights_path} does not match the sha256 in its card: it is truncated or was altered. Get a fresh copy."
        )
    try:
        table: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["architecture"].items()}
        # Building the network draws random numbers for its first weights; the caller's stream must not notice.
        with torch.random.fork_rng(devices=[]):
            model = ConsistentModel(ModelConfig(**table)).to(dtype=dtype)
        model.load_state_dict(load(data))
    except (SafetensorError, RuntimeError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise CheckpointError(f"{weights_path} and its card do not fit together: {error}") from None
    return to_device(model, device).eval().requires_grad_(False)


def to_device(model: ConsistentModel, device: str | torch.device) -> ConsistentModel:
    """Moves a model.

    Raises:
        ConfigurationError: there is no such device here.
    """
    try:
        return model.to(device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, for a device it does not have
        raise ConfigurationError(f"The device {str(device)!r} cannot be used, try 'cpu' or 'cuda': {error}") from None


def read_card(path: str | Path | None = None) -> dict[str, Any]:
    """The JSON card of a checkpoint, given as in :func:`load_model`.

    Raises:
        CheckpointError: missing, not JSON, or not a card of this package.
    """
    _, card_path = _find(path)
    try:
        card = json.loads(card_path.read_text())
    except OSError as error:
        raise CheckpointError(f"The checkpoint card {card_path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise CheckpointError(f"The checkpoint card {card_path} is not valid JSON (truncated?): {error}") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CheckpointError(f"{card_path} is not a card of a consistent_calc checkpoint.")
    if card.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{card_path} has format version {card.get('format_version')}; this package reads {FORMAT_VERSION}. "
            "Update consistent_calc."
        )
    if missing := {"architecture", "sha256"} - set(card):
        raise CheckpointError(f"{card_path} lacks {', '.join(sorted(missing))}.")
    return card


def find_card(path: str | Path | None = None, folder: Path = Path()) -> Path:
    """Path of the card that :func:`read_card` reads: names are resolved, for processes with another working folder.

    Args:
        path: as in :func:`load_model`.
        folder: that a relative path starts from.
    """
    return _find(path, folder)[1].resolve()


def shipped(name: str) -> Path:
    """Path (without suffix) of a checkpoint shipped with the package."""
    # Installed, the folder lies inside the package (see setup.cfg); in a source tree, beside it.
    package = Path(__file__).resolve().parent
    inside = package / "checkpoints"
    return (inside if inside.is_dir() else package.parent / "checkpoints") / name


def _find(path: str | Path | None, folder: Path = Path()) -> tuple[Path, Path]:
    """Weights and card of a checkpoint to read, given as in :func:`find_card`."""
    if path is None:
        return _paths(shipped(DEFAULT))
    given, named = _paths(folder / path), _paths(shipped(Path(path).name))
    is_name = Path(path).parent == Path() and not any(file.exists() for file in given)
    return named if is_name and named[1].exists() else given


def _paths(path: str | Path) -> tuple[Path, Path]:
    """Weights and card that belong to a path given in any form."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    if not stem.name:
        raise CheckpointError(f"{str(path)!r} is no name of a checkpoint.")
    return stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")
