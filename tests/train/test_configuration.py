from __future__ import annotations

from pathlib import Path

import pytest

from consistent_calc.errors import ConfigurationError
from consistent_calc.train.configuration import read_config


def test_reads_nested_tables_and_converts_numbers(run_folder: Path) -> None:
    config, base = read_config(run_folder / "config.toml")
    assert base == run_folder
    assert config.model.channels == (16, 8, 4)
    assert config.schedule.steps == 12
    assert config.energy[0].store == "toy.h5"
    assert config.weights.forces == 1.0  # a default


def test_integers_are_accepted_for_floats(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('output = "r"\n[model]\ncutoff = 4\n[[energy]]\nstore = "a"\natoms = 1\n')
    assert read_config(path)[0].model.cutoff == 4.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output = ", "not a TOML file"),
        ('output = "r"\nenergy = []', "at least one"),
        ('output = "r"', "missing entry energy"),
        ('output = "r"\nspeed = 3\n[[energy]]\nstore = "a"\natoms = 1', "unknown entry speed"),
        ('output = "r"\n[[energy]]\nstore = "a"\natoms = "many"', "atoms must be int"),
        ('output = "r"\n[[energy]]\nstore = "a"\natoms = true', "atoms must be int"),
        ('output = "r"\n[[energy]]\nstore = "a"\natoms = 1\n[model]\nchannels = 3', "channels must be a list"),
        ('output = "r"\nmodel = 3\n[[energy]]\nstore = "a"\natoms = 1', "model must be a table"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_config(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no configuration file"):
        read_config(tmp_path / "none.toml")
