"""Diffusion over molecular structures: noise levels, preconditioning and samplers."""
