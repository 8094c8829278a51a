"""Running an external program in a scratch folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from consistent_calc.errors import LabellingError, MissingDependencyError


def find_program(name: str, remedy: str) -> str:
    """Path of an executable.

    Raises:
        MissingDependencyError: it is not installed; the message ends with the remedy.
    """
    path = shutil.which(name)
    if path is None:
        raise MissingDependencyError(f"The program {name} was not found: {remedy}.")
    return path


def program_version(program: str) -> str:
    """What the program prints after the word version when it is asked for it."""
    done = subprocess.run(
        [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    found = re.search(r"version (\S+)", done.stdout)
    return found[1] if found else "of unknown version"


def run_program(arguments: list[str], folder: Path) -> str:
    """Standard output of a program that runs on one thread in ``folder``.

    Raises:
        LabellingError: it ended with an error; the message holds the last lines of its output.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        last = " ".join((done.stderr or done.stdout).split()[-30:])
        raise LabellingError(f"{Path(arguments[0]).name} ended with status {done.returncode}: {last}")
    return done.stdout
