"""The search space, its candidate ops, the supernet, and the architectures and networks that come out of it.

- `space.py`: the space, read from the YAML section `space`; `catalogue.py`: the candidates by name; `ops.py`: their
  modules; `own_candidates.py`, `user_modules.py`, `module_names.py`: candidates of the user's own
- `supernet.py`: the network with every candidate; `blocks.py`: its edges; `gates.py`: the gradient of the gates;
  `alpha.py`: the architecture parameters; `balance.py`: the order of training in warm-up; `compiled.py`: torch.compile
- `design.py`: a network layer by layer, without weights. `architecture.py`: one candidate per edge of a space, and
  architecture.json; `chain.py`: explicit layers, whose ops are in `explicit.py` and `tree.py`; `design_file.py` reads
  either; `json_text.py`: strict JSON; `network.py`: the plain network of a design;
  `summary.py`: a design as a table
- `complexity.py`, `activation.py`, `cost.py`: parameters, MACs, peak activation, and their sums over a path

Nothing here imports another package of this project: latency, search and training build on it.
"""

from supernet.architecture import Architecture
from supernet.catalogue import CANDIDATES, Candidate, register
from supernet.chain import Chain
from supernet.design import Design
from supernet.network import Network
from supernet.space import Edge, Layer, Space, SpaceConfig
from supernet.supernet import Supernet

__all__ = [
    "CANDIDATES",
    "Architecture",
    "Candidate",
    "Chain",
    "Design",
    "Edge",
    "Layer",
    "Network",
    "Space",
    "SpaceConfig",
    "Supernet",
    "register",
]
