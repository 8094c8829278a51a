"""How the costly parts of the network are computed: in plain torch, or by faster kernels with the same results."""

from __future__ import annotations

from dataclasses import dataclass

from consistent_calc.nn.edges import EdgeFunctions, edge_functions
from consistent_calc.nn.layers import MessageSum, sum_messages


@dataclass(frozen=True)
class Kernels:
    """One way to compute them.

    Attributes:
        sum_messages: as :func:`consistent_calc.nn.layers.sum_messages`.
        edge_functions: as :func:`consistent_calc.nn.edges.edge_functions`.
    """

    sum_messages: MessageSum = sum_messages
    edge_functions: EdgeFunctions = edge_functions


PLAIN = Kernels()
