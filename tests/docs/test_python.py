"""The program of docs/extending/python.md runs as it stands, in a process of its own."""

import re
import subprocess
import sys

from engine.config import load_config
from search.config import SearchConfig
from supernet.space import Space


def test_the_program_of_the_page_runs_without_a_warning(
    checkout, shell, tmp_path, tiny_search, write_yaml, formula_table
):
    search = tiny_search["search"] | {"regression": {"final_steps": 2}}
    path = write_yaml(tmp_path / "search.yaml", tiny_search | {"search": search})
    config = SearchConfig.read(path)
    formula_table(Space(config.space)).save(tmp_path / "table.yaml")
    program = checkout / "docs" / "examples" / "from_python.py"
    command = [sys.executable, program, path, "run", "run.seed=1"]
    ended = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert not re.findall(r"^.*Warning: .*$", ended.stderr, re.MULTILINE)  # of Python, torch or another library
    assert "3 edges: " in ended.stdout
    assert "logits: (2, 2)" in ended.stdout
    assert load_config(tmp_path / "run" / "config.yaml")["run"]["seed"] == 1
