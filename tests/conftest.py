"""Fixtures that run scripts in this process, configure a tiny search, compute tables by a formula and count MACs."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
import yaml
from torch import Tensor, nn

from latency.config import MeasureConfig
from latency.device import Device
from latency.table import Entry, LatencyTable, UsedRuntime, memory_format_name
from supernet.catalogue import SkipSpec
from supernet.complexity import Complexity
from supernet.space import Layer, Space, SpaceConfig
from tests.processes import black_pixel

CHECKOUT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """Lets Ctrl-C interrupt this process and those that it starts: a shell starts a program in the background (`make
    test &` in a script) with SIGINT ignored, and tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the longest test, which is the last by name: a process would run it while the other one is idle."""
    items.sort(key=lambda item: item.path.name != "test_install.py")


def pytest_collection_finish() -> None:
    """Exempts what is alive now from garbage collection: the modules and the tests. A timing collects before each of
    its rounds, which took 0.4 s each here."""
    gc.collect()
    gc.freeze()


class Ended(NamedTuple):
    """The exit status of a script, and the text that it wrote to stdout and stderr."""

    status: int
    out: str
    err: str


@contextlib.contextmanager
def _state_of_the_process_restored() -> Iterator[None]:
    """Restores what a script sets for its whole process: log handlers and torch's thread count."""
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        torch.set_num_threads(threads)


def _ended(start: Callable[[], object]) -> Ended:
    """Runs a program in this process until it exits."""
    out, err = io.StringIO(), io.StringIO()
    with (
        _state_of_the_process_restored(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        start()
    return Ended(int(end.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", autouse=True)
def undrawn() -> Iterator[None]:
    """Searches in this process show path probabilities as one black pixel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.curves.probabilities_picture", black_pixel)
        yield


@pytest.fixture(scope="session")
def command() -> Callable[..., Ended]:
    """command("convert", "net.config", ...): run a subcommand of `proxyless-nas` in this process."""
    from proxyless_nas.commands import main

    return lambda *words: _ended(lambda: main([*map(str, words)]))


@pytest.fixture(scope="session")
def door() -> Callable[..., Ended]:
    """door("run_search", "a.yaml", "--out", "runs/a"): run a script in this process, as the shell would."""

    def run(name: str, *arguments: object) -> Ended:
        with mock.patch.object(sys, "argv", [f"{name}.py", *map(str, arguments)]):
            return _ended(lambda: runpy.run_path(str(CHECKOUT / "scripts" / f"{name}.py"), run_name="__main__"))

    return run


@pytest.fixture(scope="session")
def shell() -> dict[str, str]:
    """The environment of a script in a process of its own."""
    return os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def checkout() -> Path:
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data beside the checkout."""
    folder = CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no `shared/data` folder beside the checkout")
    return folder


@pytest.fixture(scope="session")
def formula_table() -> Callable[..., LatencyTable]:
    """formula_table(space, measure): a complete table of another device, its milliseconds from `price(layer)`.

    Nothing was measured, so the fingerprint is no machine's: no derived network is timed against it.
    """

    def by_macs(layer: Layer) -> float:
        return 1.5 + layer.complexity.macs / 1e5

    def make(
        space: Space, measure: MeasureConfig | None = None, price: Callable[[Layer], float] = by_macs
    ) -> LatencyTable:
        measure = measure or MeasureConfig()
        kinds = {"cpu": "cpu", "cuda": "gpu", "external": "phone"}
        layers = (layer for layer in space.all_layers if not isinstance(layer.spec, SkipSpec))
        return LatencyTable.model_validate(
            {
                "device": Device(kind=kinds[measure.device], name="formula", fingerprint="none"),
                "runtime": UsedRuntime(name=measure.runtime, version="formula"),
                "threads": measure.threads if measure.device == "cpu" else None,
                "batch": measure.batch,
                "dtype": measure.dtype,
                "memory_format": memory_format_name(measure),
                "activation": space.config.activation,
                "input_size": space.config.input_size,
                "date": "2026-01-31",
                "method": "in_context",
                "how": "computed by a test",
                "entries": {str(layer): Entry(median_ms=price(layer), n=1) for layer in layers},
            }
        )

    return make


@pytest.fixture(scope="session")
def tiny_search() -> dict[str, Any]:
    """A search of 4 weights steps and 4 architecture steps on noise, as its YAML's nested dictionary."""
    names = ["mbconv_k3_e1", "conv_k1", "skip"]
    return {
        "space": {
            "input_size": 8,
            "input_channels": 1,
            "classes": 2,
            "stem": {"kernel": 3, "stride": 1, "width": 8},
            "stages": [{"width": 8, "candidates": names}, {"width": 16, "depth": 2, "candidates": names}],
            "feature_mix": 16,
        },
        "data": {"name": "fake", "fake_images": 32, "fake_classes": 2, "validation": 0.5, "workers": 0},
        "limits": [{"metric": "latency", "table": "table.yaml", "at": "50%"}],
        "search": {"warmup_epochs": 0, "epochs": 1, "batch_size": 4, "arch_every": 1, "bn_batches": 1},
        "run": {"threads": 1, "checkpoint_every": 2, "log_every": 1},
    }


@pytest.fixture(scope="session")
def space_of() -> Callable[[dict[str, Any]], Space]:
    """space_of(config["space"]): the Space of a YAML section."""
    return lambda section: Space(SpaceConfig.model_validate_json(json.dumps(section)))


@pytest.fixture(scope="session")
def write_yaml() -> Callable[[Path, object], Path]:
    def write(path: Path, values: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def count() -> Callable[[nn.Module, Tensor], Complexity]:
    """Parameters by numel, MACs from the shapes that convolutions and linear layers saw, per image."""

    def count_of(module: nn.Module, x: Tensor) -> Complexity:
        macs = 0

        def hook(m: nn.Module, _: object, out: Tensor) -> None:
            nonlocal macs
            macs += out[0].numel() * m.weight[0].numel()  # each output is a dot product with one filter (or row)

        hooked = (m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear))
        handles = [m.register_forward_hook(hook) for m in hooked]
        with torch.no_grad():
            module(x)
        for handle in handles:
            handle.remove()
        return Complexity(sum(p.numel() for p in module.parameters()), macs)

    return count_of
