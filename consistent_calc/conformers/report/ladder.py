"""Energy levels as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Red, green and blue at the lowest level, half way and at the highest: readable on white and on black, and far from
#: the blue of nitrogen and the red of oxygen.
SCALE = ((16, 150, 130), (130, 118, 140), (202, 62, 160))

HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 336, 24, 42, 56, 10
WIDTH, NARROWEST, WIDEST = 440, 18, 72


def level_colors(energies: Sequence[float]) -> list[str]:
    """CSS colours by energy, from the lowest to the highest; a spread below 1 kcal/mol takes a part of the scale.

    Args:
        energies: kcal/mol above the lowest, ``[n]``.
    """
    spread = max(1.0, *energies) if energies else 1.0
    return [_color(e / spread) for e in energies]


def _color(fraction: float) -> str:
    place = min(max(fraction, 0.0), 1.0) * (len(SCALE) - 1)
    low = min(int(place), len(SCALE) - 2)
    pairs = zip(SCALE[low], SCALE[low + 1], strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - low)):02x}" for a, b in pairs)


def ladder(energies: Sequence[float], weights: Sequence[float], colors: Sequence[str], label: str) -> str:
    """SVG with one level a conformer, side by side; each carries ``data-conformer`` for the script of the page.

    Args:
        energies: kcal/mol above the lowest, ``[n]``, n at least 1.
        weights: Boltzmann weights, ``[n]``.
        colors: CSS colours, ``[n]``.
        label: for readers who do not see the picture; must be escaped.
    """
    slot = min(WIDEST, max(NARROWEST, (WIDTH - LEFT - RIGHT) / len(energies)))
    width = max(WIDTH, math.ceil(LEFT + RIGHT + slot * len(energies)))
    ticks = _ticks(max(energies))
    floor = HEIGHT - BOTTOM

    def height(energy: float) -> float:
        return floor - 8 - (floor - 8 - TOP) * energy / ticks[-1]

    digits = max(0, -math.floor(math.log10(ticks[1]))) if ticks[1] < 1 else 0
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{height(t):.1f}" y2="{height(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 7}" y="{height(t) + 4:.1f}">{t:.{digits}f}</text>'
        for t in ticks
    )
    levels = []
    for k, (energy, weight, color) in enumerate(zip(energies, weights, colors, strict=True)):
        x, y = LEFT + slot * k, height(energy)
        levels.append(
            f'<g class="level" data-conformer="{k}" role="radio" aria-checked="false" tabindex="{-1 if k else 0}" '
            f'aria-label="Conformer {k + 1}, {energy:.2f} kcal/mol, weight {weight:.3f}">'
            f"<title>Conformer {k + 1}: {energy:.2f} kcal/mol, weight {weight:.3f}</title>"
            f'<rect class="hit" x="{x:.1f}" y="{TOP - 16}" width="{slot:.1f}" height="{HEIGHT - TOP - 4}" rx="4"/>'
            f'<line x1="{x + slot * 0.12:.1f}" x2="{x + slot * 0.88:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{color}"/>'
            f'<text class="number" x="{x + slot / 2:.1f}" y="{HEIGHT - 25}">{k + 1}</text></g>'
        )
    middle = (TOP + floor) // 2
    kind = "ladder wide" if width > WIDTH else "ladder"  # wide ones keep their size and can be scrolled
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" role="radiogroup" '
        f'aria-label="{label}">{grid}'
        f'<text class="axis" transform="translate(14 {middle}) rotate(-90)">Relative energy, kcal/mol</text>'
        f'<text class="axis" x="{(LEFT + width - RIGHT) // 2}" y="{HEIGHT - 4}">Conformer</text>'
        f"{''.join(levels)}</svg>"
    )


def _ticks(highest: float) -> list[float]:
    """Round numbers from zero to one at or above ``highest``, three to seven of them."""
    rough = max(highest, 0.1) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    return [k * step for k in range(max(2, math.ceil(highest / step - 1e-9)) + 1)]
