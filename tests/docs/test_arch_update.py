"""docs/extending/arch_update.md: a search learns with the example and resumes exactly; errors are one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import validate
from engine.errors import UserError
from search.config import SearchSettings
from search.loop import run_search
from search.own import with_permitted_modules

EXAMPLE = "docs/examples/own_arch_update.py:MeanLosses"


@pytest.fixture
def written(tiny_search, write_yaml, tmp_path):
    """written(settings): the file of a tiny search under a limit on MACs."""

    def write(**settings: Any) -> Path:
        config = tiny_search | {"limits": [{"metric": "macs", "at": "50%"}]}
        config["search"] = {**tiny_search["search"], **settings}
        path: Path = write_yaml(tmp_path / "search.yaml", config)
        return path

    return write


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").iterdir(), key=lambda file: file.name)


def state_of(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoints(run)[-1], weights_only=True)["search"]
    return state


def test_a_search_learns_with_the_example_and_resumes_exactly(written, tmp_path):
    config = written(arch_update=EXAMPLE)
    run_search(config, tmp_path / "whole")
    whole = state_of(tmp_path / "whole")
    edges = whole["alpha"].shape[0]
    assert whole["kept"]["counts"].sum() == 4 * 4 * edges  # 4 steps of 4 networks, a candidate of each edge
    assert whole["kept"]["sums"].sum() > 0
    assert "own_arch_update.py" in (tmp_path / "whole/inputs.json").read_text()  # a resume compares it
    curves = (tmp_path / "whole/metrics.jsonl").read_text()
    assert '"arch/ce"' in curves

    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    for file in [*checkpoints(tmp_path / "stopped")[1:], tmp_path / "stopped/result.json"]:
        file.unlink()
    assert state_of(tmp_path / "stopped")["step"] == 2
    run_search(config, tmp_path / "stopped", resume=True)
    again = state_of(tmp_path / "stopped")
    torch.testing.assert_close(again["alpha"], whole["alpha"], rtol=0, atol=0)
    torch.testing.assert_close(again["kept"], whole["kept"], rtol=0, atol=0)


OWN = """
from search.update import Estimator, Update


class Mine(Estimator):
    def step(self, state, batch, draws, d_terms, *, final):
        {body}
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "own.py:Mine: step() returned a value of type NoneType, expected an Update whose figures"),
        ("return Update({'arch/ce': float('nan')})", "expected an Update whose figures are finite numbers"),
        ("q", "own.py:Mine: step() failed: own.py, line 7: NameError: name 'q' is not defined"),
        ("state.alpha = state.alpha.with_values(1 + state.alpha.values)\n        return Update({})", "use state"),
        ("state.alpha.values.fill_(float('nan')); return Update({})", "alpha is not finite at step 1"),
    ],
)  # fmt: skip
def test_a_step_that_cannot_be_used_is_one_line(written, tmp_path, monkeypatch, body, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN.format(body=body))
    with pytest.raises(UserError) as error:
        run_search(written(arch_update="own.py:Mine"), tmp_path / "run")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{EXAMPLE[:-1]}", "Did you mean 'MeanLosses'?"),
        ("none.py:Mine", "no such file 'none.py'"),
    ],
)
def test_a_class_that_is_not_there_is_one_line(written, tmp_path, name, message):
    with pytest.raises(UserError, match=r": search.arch_update: ") as error:
        run_search(written(arch_update=name), tmp_path / "run")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch_update": "two_paths"}, "arch_update: got 'two_paths', expected regression, full, full_v2, two_path"),
        ({"arch_update": EXAMPLE, "loss": {"form": "hinge", "weight": 1}}, "hinge is a term of the package's own"),
        ({"arch_update": EXAMPLE, "gate_gradient": "first_order"}, "differentiates no gates"),
        ({"arch_update": EXAMPLE, "regression": {}}, "regression: arch_update is docs/examples"),
    ],
)  # fmt: skip
def test_a_setting_that_does_not_fit_is_one_line(settings, message):
    with pytest.raises(UserError) as error:
        validate(SearchSettings, settings, "search.yaml")
    assert message in str(error.value)


def test_the_example_refuses_terms_which_it_would_leave_out(written, tmp_path):
    config = written(arch_update=EXAMPLE, entropy={"start": 0.1})
    with pytest.raises(UserError, match=r"^search.terms, search.entropy: MeanLosses has no gradient"):
        run_search(config, tmp_path / "run")


def test_a_run_from_elsewhere_may_not_run_a_class_unasked():
    with pytest.raises(ValueError, match=r"would run 'theirs.py'"):
        with_permitted_modules({"search": {"arch_update": "theirs.py:Mine"}}, [])
