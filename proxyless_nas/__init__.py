"""Hardware-aware neural architecture search: `import proxyless_nas as pn` has all that a user of it calls.

    import proxyless_nas as pn

    table = pn.measure("imagenet_cpu", "tables/imagenet_cpu.yaml", verify=40)
    result = pn.search("imagenet_cpu", "runs/cpu", overrides=["data.root=/images"])
    pn.retrain("imagenet", "runs/cpu/architecture.json", "runs/retrained", overrides=["data.root=/images"])
    print(pn.predict("runs/retrained", "photo.jpg"))

Each name has a docstring (`help(pn.search)`):

    images, tables     show_data, measure, verify, fit
    searching          check, search, derive, sweep
    training           retrain, retrain_sweep, evaluate, predict, pretrained
    files, devices     export, time_files, compare
    to read, to share  show, report, publish
    a whole job        ship, verify_ship
    classes            Architecture, Chain, Network, Space, Supernet, LatencyTable, Comparison, SearchConfig,
                       RetrainConfig
    published          proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14, proxyless_cifar,
                       mobilenet_v2, efficientnet_lite0
    errors             UserError: whatever you can mend

A configuration is a YAML file, the name of one that comes with the package, a dictionary or a model. `overrides` are
the settings that a command takes at its end. Each name is imported when it is first used, so that importing
`proxyless_nas` itself imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.errors import UserError
    from latency.table import LatencyTable
    from proxyless_nas.comparison.compare import compare
    from proxyless_nas.comparison.table import Comparison
    from proxyless_nas.images import show_data
    from proxyless_nas.retrainings.run import retrain_sweep
    from proxyless_nas.shipping.job import ship, verify_ship
    from proxyless_nas.verbs import (
        check,
        derive,
        evaluate,
        export,
        fit,
        measure,
        predict,
        retrain,
        search,
        sweep,
        time_files,
        verify,
    )
    from proxyless_nas.views import show
    from published.networks import (
        efficientnet_lite0,
        mobilenet_v2,
        proxyless_cifar,
        proxyless_cpu,
        proxyless_gpu,
        proxyless_mobile,
        proxyless_mobile14,
        proxyless_mobile_14,
    )
    from report.page import report
    from report.publication import publish
    from retrain.config import RetrainConfig
    from retrain.weights import pretrained
    from search.config import SearchConfig
    from supernet.architecture import Architecture
    from supernet.chain import Chain
    from supernet.network import Network
    from supernet.space import Space
    from supernet.supernet import Supernet

__all__ = [
    "Architecture",
    "Chain",
    "Comparison",
    "LatencyTable",
    "Network",
    "RetrainConfig",
    "SearchConfig",
    "Space",
    "Supernet",
    "UserError",
    "check",
    "compare",
    "derive",
    "efficientnet_lite0",
    "evaluate",
    "export",
    "fit",
    "measure",
    "mobilenet_v2",
    "predict",
    "pretrained",
    "proxyless_cifar",
    "proxyless_cpu",
    "proxyless_gpu",
    "proxyless_mobile",
    "proxyless_mobile14",
    "proxyless_mobile_14",
    "publish",
    "report",
    "retrain",
    "retrain_sweep",
    "search",
    "ship",
    "show",
    "show_data",
    "sweep",
    "time_files",
    "verify",
    "verify_ship",
]

_NETWORKS = (
    "efficientnet_lite0",
    "mobilenet_v2",
    "proxyless_cifar",
    "proxyless_cpu",
    "proxyless_gpu",
    "proxyless_mobile",
    "proxyless_mobile14",
    "proxyless_mobile_14",
)
"""Functions that build the published networks."""
_HOMES = {
    "Architecture": "supernet.architecture",
    "Chain": "supernet.chain",
    "Comparison": "proxyless_nas.comparison.table",
    "LatencyTable": "latency.table",
    "Network": "supernet.network",
    "RetrainConfig": "retrain.config",
    "SearchConfig": "search.config",
    "Space": "supernet.space",
    "Supernet": "supernet.supernet",
    "UserError": "engine.errors",
    "compare": "proxyless_nas.comparison.compare",
    "pretrained": "retrain.weights",
    "publish": "report.publication",
    "report": "report.page",
    "retrain_sweep": "proxyless_nas.retrainings.run",
    "ship": "proxyless_nas.shipping.job",
    "show": "proxyless_nas.views",
    "show_data": "proxyless_nas.images",
    "verify_ship": "proxyless_nas.shipping.job",
} | dict.fromkeys(_NETWORKS, "published.networks")
"""The module of each name; the others are in proxyless_nas.verbs."""


def __getattr__(name: str) -> Any:
    """Imports a name of `__all__` when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'proxyless_nas' has no attribute '{name}'")
    value = getattr(import_module(_HOMES.get(name, "proxyless_nas.verbs")), name)
    if name[0].islower() and name not in _NETWORKS:
        value = import_module("proxyless_nas.calls").prepared(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the names of `__all__`, imported or not, and the special names of every module: a shell or a notebook
    completes these after `pn.`."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
