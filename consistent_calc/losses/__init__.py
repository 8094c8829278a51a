"""Losses, one physical law per file: plain functions of tensors for the trainer, the evaluation and the checks."""
