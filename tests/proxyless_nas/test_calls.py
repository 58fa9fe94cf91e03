"""A function of the package takes plain values, and computes the same whatever the calling program has set in torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch

import proxyless_nas as pn
from engine.progress import Report, silent
from proxyless_nas.calls import prepared


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@prepared
def trained() -> torch.Tensor:
    """Returns the gradient of a small computation in float32, on the CPU."""
    weight = torch.ones(2, 2, requires_grad=True)
    (weight @ torch.full((2, 1), 1 + 2**-12)).sum().backward()  # bfloat16 has 8 bits: 1 + 2**-12 would be 1
    assert weight.grad is not None
    return weight.grad


@pytest.mark.parametrize(
    "setting",
    [
        torch.inference_mode(),
        torch.no_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.device("meta"),
    ],
    ids=["inference_mode", "no_grad", "autocast", "device"],
)
def test_the_settings_of_the_caller_change_nothing_inside_and_come_back(setting):
    with setting:
        before = (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"),
                  torch.get_default_device())  # fmt: skip
        assert trained().tolist() == [[1 + 2**-12] * 2] * 2
        assert before == (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"),
                          torch.get_default_device())  # fmt: skip


@pytest.mark.usefixtures("double")
def test_another_default_dtype_is_refused_in_one_line():
    says = (
        r"^torch\.get_default_dtype\(\): is torch\.float64, expected torch\.float32, .*; call torch\.set_default_dtype"
    )
    for call in (trained, lambda: pn.predict("run", "a.png"), lambda: pn.search("search.yaml", "new")):
        with pytest.raises(pn.UserError, match=says):
            call()


@prepared
def given(a: int, /, b: int | None = 1, *, c: bool = False, d: float = 1.0, e: object = None) -> tuple[object, ...]:
    """Returns its arguments."""
    return a, b, c, d, e


@prepared
def asked(
    a: str = "", b: str | None = None, *, c: Literal["x", "y"] | None = None, report: Report = silent
) -> tuple[object, ...]:
    """Returns its arguments."""
    return a, b, c, report


def test_numbers_of_numpy_become_pythons():
    values = given(np.int64(3), np.uint8(2), c=np.True_, d=np.float32(0.5), e=[np.int64(1)])
    assert values == (3, 2, True, 0.5, [1])
    assert [type(value) for value in values] == [int, int, bool, float, list]
    assert given(3, None) == (3, None, False, 1.0, None)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: given("3"), "a: got '3', expected a whole number"),
        (lambda: given(True), "a: got true, expected a whole number"),
        (lambda: given(None), "a: got null, expected a whole number"),
        (lambda: given(1, 1.5), "b: got 1.5, expected a whole number"),
        (lambda: given(1, c="no"), "c: got 'no', expected True or False"),
        (lambda: given(1, c=0), "c: got 0, expected True or False"),
        (lambda: asked(3), "a: got 3, expected a text"),
        (lambda: asked(None), "a: got null, expected a text"),
        (lambda: asked(b=["x"]), "b: got [x], expected a text"),
        (
            lambda: asked(c=np.zeros(2)),
            "c: got a value of type ndarray, expected one of the values of this parameter, not an array",
        ),
        (lambda: asked(report=None), "report: got null, expected a function"),
        (lambda: asked(report=True), "report: got true, expected a function"),
        (lambda: pn.publish("run", "new", name=3), "name: got 3, expected a text"),
        (lambda: pn.verify_ship("new", say="x"), "say: got 'x', expected a function"),
        (lambda: pn.export("run", "new", dtype=None), "dtype: got null, expected 'float32' or 'int8'"),
        (lambda: pn.search("search.yaml", "new", resume="no"), "resume: got 'no', expected True or False"),
        (lambda: pn.export("run", "new", normalise="no"), "normalise: got 'no', expected True or False"),
        (lambda: pn.measure("search.yaml", seed="a"), "seed: got 'a', expected a whole number"),
        (lambda: pn.sweep(["search.yaml"], "new", jobs="2"), "jobs: got '2', expected a whole number"),
    ],
)
def test_a_value_of_another_type_is_refused(call, says):
    with pytest.raises(pn.UserError) as refused:
        call()
    assert str(refused.value) == says


FORKED = """
import os, sys
import torch
import proxyless_nas.forked
from proxyless_nas.calls import prepared

@prepared
def computed() -> float:
    return float(torch.ones(1 << 18).exp().sum())

def in_a_fork(*, threads, patience):
    sys.stdout.flush()
    if os.fork() == 0:
        proxyless_nas.forked.PATIENCE_S = patience
        if threads:
            torch.set_num_threads(threads)
        try:
            print(computed() > 0, flush=True)
            computed()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        os._exit(0)
    os.wait()

torch.set_num_threads(2)
in_a_fork(threads=None, patience=60)  # torch has computed nothing
computed()
in_a_fork(threads=None, patience=2)
in_a_fork(threads=1, patience=60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other pools of threads")
def test_a_forked_process_in_which_torch_would_hang_is_refused_in_one_line(shell, tmp_path):
    command = [sys.executable, "-W", "error", "-c", FORKED]
    ended = subprocess.run(command, capture_output=True, text=True, env=shell, cwd=tmp_path, timeout=300)
    says = (
        "UserError this process: was forked from one in which torch had computed with several threads, so torch would "
        "hang; start it by multiprocessing's spawn, or call torch.set_num_threads(1) in it first"
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["True", says, "True"]
