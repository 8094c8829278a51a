"""Ranges of numbers in dataclasses of settings."""

from __future__ import annotations

from consistent_calc.errors import ConfigurationError


def positive(settings: object, *names: str, where: str = "") -> None:
    """Raises ConfigurationError unless these attributes are above zero, or None.

    Args:
        settings: of any class.
        names: of attributes.
        where: table of the configuration file that they are in, for the message.
    """
    for name, value in _values(settings, names):
        if not value > 0:
            raise ConfigurationError(f"{where and where + ': '}{name} must be positive, got {value!r}.")


def not_negative(settings: object, *names: str, where: str = "") -> None:
    """As :func:`positive`, but zero is allowed."""
    for name, value in _values(settings, names):
        if not value >= 0:
            raise ConfigurationError(f"{where and where + ': '}{name} must be at least 0, got {value!r}.")


def _values(settings: object, names: tuple[str, ...]) -> list[tuple[str, float]]:
    values = [(name, getattr(settings, name)) for name in names]
    return [(name, value) for name, value in values if value is not None]
