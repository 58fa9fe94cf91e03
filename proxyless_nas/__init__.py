"""Hardware-aware neural architecture search: `import proxyless_nas as pn` has all that a user of it calls.

    import proxyless_nas as pn

    table = pn.measure("imagenet_cpu", "tables/imagenet_cpu.yaml", verify=40)
    result = pn.search("imagenet_cpu", "runs/cpu", overrides=["data.root=/images"])
    pn.retrain("imagenet", "runs/cpu/architecture.json", "runs/retrained", overrides=["data.root=/images"])
    print(pn.predict("runs/retrained", "photo.jpg"))

The verbs are functions (proxyless_nas/verbs.py), the nouns are classes of the packages beside this one. Each is
imported when it is first used, so that importing `proxyless_nas` itself imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.errors import UserError
    from latency.table import LatencyTable
    from proxyless_nas.verbs import check, derive, evaluate, measure, predict, retrain, search, sweep, verify
    from proxyless_nas.views import show
    from retrain.config import RetrainConfig
    from retrain.weights import pretrained
    from search.config import SearchConfig
    from supernet.architecture import Architecture
    from supernet.network import Network
    from supernet.space import Space
    from supernet.supernet import Supernet

__all__ = [
    "Architecture",
    "LatencyTable",
    "Network",
    "RetrainConfig",
    "SearchConfig",
    "Space",
    "Supernet",
    "UserError",
    "check",
    "derive",
    "evaluate",
    "measure",
    "predict",
    "pretrained",
    "retrain",
    "search",
    "show",
    "sweep",
    "verify",
]

_HOMES = {
    "Architecture": "supernet.architecture",
    "LatencyTable": "latency.table",
    "Network": "supernet.network",
    "RetrainConfig": "retrain.config",
    "SearchConfig": "search.config",
    "Space": "supernet.space",
    "Supernet": "supernet.supernet",
    "UserError": "engine.errors",
    "pretrained": "retrain.weights",
    "show": "proxyless_nas.views",
}
"""The module of each name; the others are in proxyless_nas.verbs."""


def __getattr__(name: str) -> Any:
    """Imports a name of `__all__` when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'proxyless_nas' has no attribute '{name}'")
    value = getattr(import_module(_HOMES.get(name, "proxyless_nas.verbs")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the names of `__all__`, imported or not, and those of every module."""
    return sorted({*__all__, *globals()})
