from __future__ import annotations

from pathlib import Path

import pytest

from consistent_calc.errors import ConfigurationError
from consistent_calc.train.configuration import read_config

SOURCE = 'output = "r"\n[[energy]]\nstore = "a"\natoms = 1\n'


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


def test_consistency_is_off_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(SOURCE)
    config, _ = read_config(path)
    assert (config.weights.optimality, config.weights.score, config.start) == (0, 0, None)
    assert config.energy[0].forces
    text = 'start = "one/model"\n' + SOURCE + "forces = false\n[consistency]\nscore_noise = [0, 1]\nlevel = 'PM6'\n"
    path.write_text(text)
    config, _ = read_config(path)
    assert config.start == "one/model"
    assert not config.energy[0].forces
    assert config.consistency.score_noise == (0.0, 1.0)
    assert config.consistency.level == "PM6"


def test_the_prior_is_off_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(SOURCE)
    assert read_config(path)[0].noise.learned_prior_level is None
    path.write_text(SOURCE + "[noise]\nhigh = 2\nprior_share = 0.3\n")
    assert read_config(path)[0].noise.learned_prior_level == 3.0


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
        (SOURCE + '[consistency]\noptimality = "best"', "optimality must be one of comparison, gap, slope"),
        (SOURCE + '[consistency]\nscore = "dirty"', "score must be one of noisy, clean"),
        (SOURCE + "[consistency]\nscore_noise = [0.1]", r"score_noise must be \[lowest, highest\]"),
        (SOURCE + "[consistency]\ntemperature_energy = 0", "must be positive"),
        (SOURCE + "[noise]\nlow = 0", "noise: low must be positive"),
        (SOURCE + "[schedule]\nclip_norm = -1", "schedule: clip_norm must be positive"),
        (SOURCE + "[schedule]\nema_decay = 2", "ema_decay must be at least 0 and below 1"),
        (SOURCE + "[weights]\nforces = -1", "weights: forces must be at least 0"),
        (SOURCE + "[model]\nchannels = []", "channels must be positive numbers"),
        (SOURCE + "[model]\nchannels = [8]", "one a degree from 0 to at least 1"),
        (SOURCE + "[model]\ncutoff = inf", "cutoff must be finite"),
        ("seed = -1\n" + SOURCE, "seed must be at least 0"),
        ("threads = 0\n" + SOURCE, "threads must be positive"),
        (SOURCE.replace("atoms = ", "atoms = -"), "atoms must be positive"),
        (SOURCE + "[noise]\nprior_share = 1.5", "prior_share must be between 0 and 1"),
        (SOURCE + "[noise]\nprior_share = 0.5", r"prior_level = 3 must be above high = 5"),
        (
            SOURCE + "[noise]\nprior_share = 0.5\nhigh = 2\n[weights]\nscore = 1\n[consistency]\nscore_noise = [0, 3]",
            "score_noise reaches up to the harmonic prior",
        ),
        (SOURCE + "forces = 1", "forces must be bool"),
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
