"""docs/examples/notebook.ipynb runs as it stands, is short, and needs no file."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

FILE = "docs/examples/notebook.ipynb"


@pytest.fixture
def notebooks(checkout):
    """The module beside this file."""
    spec = importlib.util.spec_from_file_location("notebooks", Path(__file__).with_name("notebooks.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_has_at_most_15_lines_of_code(checkout, notebooks):
    assert notebooks.lines_of_code(checkout / FILE) <= 15


def test_it_runs_and_shows_two_pictures(checkout, notebooks, tmp_path, monkeypatch):
    """The path probabilities and the Pareto front are pictures; nothing is written but the runs and the image."""
    monkeypatch.chdir(tmp_path)
    # a busy machine would repeat its timings of the derived network, which this test does not judge
    for module in ("latency.noise", "search.derive.clock"):  # the noise between rounds, and the drift of the reference
        monkeypatch.setattr(f"{module}.LARGEST_DISTURBANCE", float("inf"))
    monkeypatch.setattr("search.derive.measured.MOST_TRIES", 1)
    monkeypatch.setattr("search.plan.Plan.final_steps", 20)  # nor which network is derived
    digits = load_digits()  # nor how much is learned: a third of the images
    few = Bunch(**digits | {"images": digits.images[::3], "target": digits.target[::3]})
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: few)
    _, search, probabilities, front, accuracy, prediction = notebooks.run_cells(checkout / FILE)
    assert "latency [ms]" in search[0]["text"]
    for (shown,) in (probabilities, front):
        assert Image.open(io.BytesIO(shown["data"]["image/png"])).size > (300, 200)
    assert 0 < float(accuracy[0]["data"]["text/plain"]) <= 100
    assert prediction[0]["text"].startswith("three.png: ")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "three.png"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"notebook", "notebook_retrained"}
