"""Element symbols for messages, without importing a chemistry package."""

from __future__ import annotations

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr "
    "Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
"""``SYMBOLS[z]`` is the symbol of the element with atomic number ``z``; ``SYMBOLS[0]`` is ASE's dummy ``X``."""


def symbol(number: int) -> str:
    """Symbol of an atomic number; numbers outside the periodic table are shown as ``Z=<number>``."""
    return SYMBOLS[number] if 0 <= number < len(SYMBOLS) else f"Z={number}"


def chemical_formula(numbers: list[int]) -> str:
    """Hill formula (carbon, hydrogen, then alphabetical) of a list of atomic numbers."""
    counts: dict[str, int] = {}
    for number in numbers:
        counts[symbol(number)] = counts.get(symbol(number), 0) + 1
    first = [s for s in ("C", "H") if s in counts] if "C" in counts else []
    order = first + sorted(s for s in counts if s not in first)
    return "".join(s + (str(counts[s]) if counts[s] > 1 else "") for s in order)
