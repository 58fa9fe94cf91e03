"""Search space, candidate ops, supernet, architecture and network. Knows nothing of latency, search or training."""

from supernet.architecture import Architecture
from supernet.catalogue import CANDIDATES, Candidate, register
from supernet.network import Network
from supernet.space import Edge, Layer, Space, SpaceConfig
from supernet.supernet import Supernet

__all__ = [
    "CANDIDATES",
    "Architecture",
    "Candidate",
    "Edge",
    "Layer",
    "Network",
    "Space",
    "SpaceConfig",
    "Supernet",
    "register",
]
