"""Score consistency: the score of the structure distribution is force over kT.

For ``p(R) ~ exp(-E(R)/kT)`` the score is ``grad ln p = F/kT``. The denoiser knows the score of the *noised*
distribution by Tweedie's formula; the two agree at vanishing noise, or exactly after averaging (target-score identity).
"""

from __future__ import annotations

from torch import Tensor


def score(denoised: Tensor, noisy: Tensor, sigma: Tensor, graph: Tensor) -> Tensor:
    """Tweedie's formula ``(D(x, s) - x) / s^2``.

    Args:
        denoised, noisy: ``[n_atoms, 3]``, Angstrom.
        sigma: ``[n_graphs]``, noise level, Angstrom.
        graph: int64 ``[n_atoms]``.

    Returns:
        ``[n_atoms, 3]``, 1/Angstrom.
    """
    return (denoised - noisy) / (sigma[graph, None] ** 2)


def score_force_loss(
    denoised: Tensor, noisy: Tensor, sigma: Tensor, forces: Tensor, temperature_energy: float, graph: Tensor
) -> Tensor:
    """``mean s^2 |score(x) - F(x)/kT|^2`` with the forces *at the noisy positions*; justified for small s only.

    Ren et al. 2024, as inferred. The factor ``s^2`` makes it dimensionless and of the scale of the denoising loss.

    Args:
        forces: ``[n_atoms, 3]`` of the frozen energy at ``noisy``, eV/Angstrom; no gradient flows into them.
        temperature_energy: kT in eV.

    Returns:
        Scalar.
    """
    difference = score(denoised, noisy, sigma, graph) - forces.detach() / temperature_energy
    return (difference * difference).sum(1).mul(sigma[graph] ** 2).mean()


def target_score_loss(
    denoised: Tensor, noisy: Tensor, sigma: Tensor, clean_forces: Tensor, temperature_energy: float, graph: Tensor
) -> Tensor:
    """``mean s^2 |score(x) - F(x_0)/kT|^2`` with the forces *at the clean positions* that were noised.

    Its minimiser over many samples is exact at every noise level by the target-score identity
    ``score(x) = E[F(x_0)/kT | x]`` (De Bortoli et al., arXiv 2402.08667), provided that ``x_0`` is Boltzmann
    distributed at the same temperature.

    Args:
        clean_forces: ``[n_atoms, 3]`` at the clean positions, eV/Angstrom.
    """
    return score_force_loss(denoised, noisy, sigma, clean_forces, temperature_energy, graph)
