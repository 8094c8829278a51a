"""Units: eV, Angstrom, elementary charge everywhere. Conversion factors are CODATA 2018, as in ``scipy.constants``."""

from __future__ import annotations

HARTREE = 27.211386245988
"""One Hartree in eV."""

BOHR = 0.529177210903
"""One Bohr in Angstrom."""

KCAL_PER_MOL = 0.0433641153087705
"""One kcal/mol (thermochemical) in eV."""

BOLTZMANN = 8.617333262e-5
"""Boltzmann's constant in eV/K."""

DEBYE = 0.20819433270935603
"""One Debye in e Angstrom."""
