"""Starting from a trained model: its weights, with new elements and levels of theory added."""

from __future__ import annotations

from dataclasses import replace

import torch

from consistent_calc.data.dataset import Dataset
from consistent_calc.model import ConsistentModel
from consistent_calc.train.references import fit_references


def extend_model(
    model: ConsistentModel, datasets: list[Dataset], seed: int, prior_level: float | None = None
) -> ConsistentModel:
    """A model that also knows the elements and levels of the data, and the harmonic prior if it is to learn that.

    Everything the model knows is kept to the last digit. A new level starts as a copy of the default level's readout,
    with reference energies fitted to its data; the embedding of a new element starts at random.

    Args:
        model: on any device; not modified.
        datasets: training data.
        seed: of the new embeddings.
        prior_level: see :class:`consistent_calc.model.ModelConfig`; None leaves the model's own.

    Returns:
        The model itself if it knows everything, else a new one.
    """
    elements = tuple(sorted(set(model.elements).union(*(d.elements for d in datasets))))
    levels = tuple(dict.fromkeys([*model.levels, *(d.level for d in datasets)]))
    columns = torch.tensor([elements.index(z) for z in model.elements], device=model.device)
    known = torch.full((len(levels), len(elements)), torch.nan, dtype=torch.float64, device=model.device)
    # A reference of zero belongs to an element that its level never saw.
    known[: len(model.levels), columns] = torch.where(model.references == 0, torch.nan, model.references)
    references = fit_references(datasets, levels, elements, known).to(model.device)
    prior_level = model.prior_level if prior_level is None else prior_level
    config = replace(model.config, elements=elements, levels=levels, prior_level=prior_level)
    if config == model.config and torch.equal(references, model.references):
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        larger = ConsistentModel(config).to(model.device, model.dtype)
    state, old = larger.state_dict(), model.state_dict()
    for name, value in old.items():
        if name == "encoder.elements.weight":
            state[name][columns] = value
        elif name.startswith("energy_head.readout."):
            state[name][:] = value[:1]
            state[name][: len(model.levels)] = value
        elif name != "references":
            state[name] = value
    state["references"] = references
    larger.load_state_dict(state)
    return larger
