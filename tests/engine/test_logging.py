"""A run writes its configuration and text into its folder, and warnings do not tear its progress bar."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest
from rich.console import Console

from engine import progress as module
from engine.config import Section, load_config
from engine.curves.metrics import MetricsLog
from engine.errors import ConfigError
from engine.progress import Progress, set_up_logging
from engine.runs.folder import dump_config, open_run
from tests.curves import curves_in


def test_text_outlives_resumes_and_is_there_once(tmp_path):
    metrics = MetricsLog(tmp_path, resume_step=None)
    metrics.text("config", "epochs: 3")
    metrics.scalars(4, {"loss": 1.0})
    metrics.close()
    for _ in range(2):
        MetricsLog(tmp_path, resume_step=0).close()
        assert curves_in(tmp_path).texts == {"config": [(0, "epochs: 3")]}


def test_names_of_files_that_are_not_utf_8_are_shown_with_a_mark_in_place_of_what_cannot_be(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    metrics = MetricsLog(tmp_path, resume_step=None)
    metrics.hyperparameters(name, {"limits": name})
    metrics.scalars(1, {f"expected/latency_{name}": 1.0})
    metrics.close()
    assert curves_in(tmp_path).scalars == {"expected/latency_caf?": [(1, 1.0)]}


@pytest.fixture
def terminal(monkeypatch):
    """Returns the text that a terminal got while the root logger wrote to it."""
    out = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=out, width=100, force_terminal=True))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    set_up_logging()
    yield lambda: out.getvalue()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_warning_does_not_tear_the_bar(terminal):
    with Progress(10, 0, "search") as progress:
        for step in range(1, 11):
            progress.update(step, loss=1.0)
            logging.getLogger("engine").warning("checkpoint %d [is] damaged", step)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal()).replace("\r", "\n").splitlines()
    warned = [line.strip() for line in plain if "damaged" in line]
    assert warned == [f"WARNING  checkpoint {step} [is] damaged" for step in range(1, 11)]


class Small(Section):
    where: Path
    pair: tuple[float, float] = (0.0, 1e-3)


def test_a_dumped_config_reads_back(tmp_path):
    expected = {"where": "a/b", "pair": [0.0, 1e-3]}
    for config in (Small(where=Path("a/b")), {"where": Path("a/b"), "pair": (0.0, 1e-3)}):
        dump_config(config, tmp_path / "config.yaml")
        assert load_config(tmp_path / "config.yaml") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(("names", "shown"), [(["notes.txt"], "notes.txt"), (["b", "a"], "a, ...")])
def test_a_resume_among_other_files_is_taken_for_a_mistyped_out(tmp_path, names, shown):
    for name in names:
        (tmp_path / name).write_text("kept")
    with pytest.raises(ConfigError) as error:
        open_run(tmp_path, {"a": 1}, {}, resume=True)
    assert str(error.value) == (
        f"--resume: {tmp_path} holds no run but other files ({shown}); correct --out, or begin there without --resume"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    open_run(tmp_path, {"a": 1}, {}, resume=False)


def test_a_resume_begins_where_a_start_was_killed_before_its_config(tmp_path, caplog):
    (tmp_path / ".config.yaml.x1y2z3.tmp").write_text("ha")
    with caplog.at_level(logging.WARNING):
        open_run(tmp_path, {"a": 1}, {}, resume=True)
    assert caplog.messages == [f"{tmp_path} holds no run yet; starting from the beginning"]
    assert load_config(tmp_path / "config.yaml") == {"a": 1}
