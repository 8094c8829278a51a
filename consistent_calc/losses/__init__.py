"""Training losses, one physical law per file: plain functions of tensors, used by the trainer, the evaluation and the checks."""
