"""Tests search.compile: the same search up to rounding, and an error in one line if torch.compile does not work."""

from __future__ import annotations

import logging
import shutil
from itertools import chain, repeat

import pytest
import torch
import yaml

from engine.distributed import ALONE, Group
from engine.errors import UserError
from engine.runs.checkpoints import Checkpoints
from search import compilation
from search.loop import run_search
from supernet import compiled
from supernet.compiled import CompileError


@pytest.fixture
def config_file(tmp_path, make_tiny_config):
    config = {
        "space": make_tiny_config(),
        "data": {"name": "fake", "fake_images": 80, "fake_classes": 4, "validation": 0.4},
        "limits": [{"metric": "macs", "at": "50%"}],
        "search": {
            "arch_update": "two_path", "warmup_epochs": 1, "epochs": 1, "batch_size": 8, "arch_every": 1,
            "arch_lr": 0.05, "bn_batches": 2,
        },
        "run": {"seed": 3, "threads": 1, "log_every": 1},
    }  # fmt: skip
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++)")
def test_a_compiled_search_is_the_same_up_to_rounding(config_file, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(compiled, "compared", lambda *_: 0.5)  # keep all
    alphas = {}
    for wanted in (False, True):
        out = tmp_path / str(wanted)
        with caplog.at_level(logging.INFO):
            run_search(config_file, out, overrides=[f"search.compile={wanted}"])
        newest = Checkpoints(out / "checkpoints").newest()
        assert newest is not None
        alphas[wanted] = newest[1]["search"]["alpha"]
    assert alphas[False].abs().max() > 0.1
    torch.testing.assert_close(alphas[True], alphas[False], rtol=0, atol=1e-3)
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("compiled")]
    assert "take 0.50 of the time there" in line


def test_a_candidate_that_stays_eager_is_named(config_file, tmp_path, monkeypatch, caplog):
    answers = chain([0.99], repeat("data-dependent branch"))
    monkeypatch.setattr(compiled, "compared", lambda *_: next(answers))
    run_search(config_file, tmp_path / "out", overrides=["search.compile=true"])
    named = [r.getMessage() for r in caplog.records if "torch.compile cannot do" in r.getMessage()]
    assert len(named) == len(set(named)) > 0


def test_a_search_that_has_ended_compiles_nothing(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "compared", lambda *_: 0.99)
    run_search(config_file, tmp_path / "out", overrides=["search.compile=true"])
    monkeypatch.setattr(compilation, "compile_candidates", None)
    run_search(config_file, tmp_path / "out", resume=True, overrides=["search.compile=true"])


class Gathered(Group):
    """Process 0 of two; the other one has answers of its own."""

    def gathered(self, value):
        return [value, [0.5, 0.5, None, None]]


def test_processes_keep_the_candidates_that_the_first_finds_faster_and_all_can_compile():
    """A program that another process lacks would end the search in a step."""
    assert compilation.agreed(Gathered(0, 2), [0.9, None, 0.8, None]) == [0.9, None, None, None]
    assert compilation.agreed(ALONE, [0.9, None]) == [0.9, None]


def test_without_a_compiler_one_line_says_what_to_do(config_file, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise CompileError("No working C++ compiler found")

    monkeypatch.setattr(compilation, "compile_candidates", broken)
    with pytest.raises(UserError, match=r"search\.compile: .*No working C\+\+ compiler found.*search\.compile=false"):
        run_search(config_file, tmp_path / "out", overrides=["search.compile=true"])
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
