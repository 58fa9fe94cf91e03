"""The quick start on a busy machine: what it measures again, what it goes on with, and what it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "quickstart.py"


class MadeUpTable:
    """Of a verification with this error and this noise, in percent."""

    def __init__(self, error, noise):
        self.verification = self
        self.table = self
        self.mape_percent, self.noise_mape_percent = error, noise

    def save(self, path):
        path.write_text(f"{self.mape_percent} {self.noise_mape_percent}")


@pytest.mark.parametrize(
    ("tables", "kept", "accepted", "warned"),
    [
        ([(2.0, 1.0)], (2.0, 1.0), 10.0, False),
        ([(12.0, 30.0), (3.0, 4.0)], (3.0, 4.0), 10.0, False),
        ([(25.0, 30.0), (19.9, 28.0), (40.0, 33.0)], (19.9, 28.0), 20.0, True),
        ([(4.0, 9.0), (6.0, 8.0), (6.0, 8.5)], (6.0, 8.0), 10.0, False),
    ],
)
def test_a_disturbed_table_is_measured_again_and_the_least_disturbed_is_kept(
    tables, kept, accepted, warned, tmp_path, monkeypatch, caplog
):
    spec = importlib.util.spec_from_file_location("quickstart_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quickstart_script", script)  # its dataclass looks there
    spec.loader.exec_module(script)
    found = iter([MadeUpTable(*figures) for figures in tables])
    monkeypatch.setattr("latency.measure.measure_table", lambda *args, **kwargs: next(found))
    monkeypatch.setattr("latency.summary.summary", lambda verification: "made up")
    monkeypatch.chdir(SCRIPT.parents[1])
    assert script.measured(tmp_path / "table.yaml", 0) == accepted
    assert (tmp_path / "table.yaml").read_text() == f"{kept[0]} {kept[1]}"
    assert next(found, None) is None  # as many as needed, and no more
    assert any(record.levelname == "WARNING" for record in caplog.records) == warned
