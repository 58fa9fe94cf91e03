"""The scripts' command lines: answered before anything heavy is imported, with `~` in every path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from latency.importers import IMPORTERS
from tests import light_commands
from tests.processes import torchrun

CHECKOUT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.stem for path in (CHECKOUT / "scripts").glob("*.py"))
CALLS = {"help": ["--help"], "mistyped": ["--no-such-option"]}


@pytest.fixture(scope="module")
def answers(shell) -> dict[tuple[str, str], tuple[int, list[str], str]]:
    cases = [(name, call) for name in SCRIPTS for call in CALLS]
    lines = [[str(CHECKOUT / "scripts" / f"{name}.py"), *CALLS[call]] for name, call in cases]
    return dict(zip(cases, light_commands.answers(light_commands.SCRIPT, lines, shell), strict=True))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script, answers):
    status, heavy, text = answers[script, "help"]
    assert (status, heavy) == (0, [])
    assert text.startswith("usage: ")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistyped_option_is_answered_at_once(script, answers):
    status, heavy, text = answers[script, "mistyped"]
    assert (status, heavy) == (2, [])
    assert "error: " in text


def test_a_command_that_reads_no_image_and_draws_nothing_imports_nothing_that_does(shell):
    """Each takes half a second to two seconds."""
    program = "import sys, search.loop, retrain.run, proxyless_nas.verbs; print(*set(sys.argv) & set(sys.modules))"
    slow = ["torchvision", "matplotlib", "scipy.stats", "torch._dynamo", "sklearn", "onnx"]
    command = [sys.executable, "-c", program, *slow]
    ended = subprocess.run(command, env=shell, capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout == "\n"


def test_the_formats_of_the_command_line_are_those_of_the_importers(answers):
    """The script lists them itself, since the importers take long to import."""
    assert f"--format {{{','.join(sorted(IMPORTERS))}}}" in answers["import_latency", "help"][2]


def test_under_torchrun_a_mistyped_option_is_reported_once(shell, tmp_path):
    script = CHECKOUT / "scripts" / "run_search.py"
    process = torchrun("--no-python", sys.executable, script, "--no-such-option", env=shell, cwd=tmp_path)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("run_search.py: error: ") == 1
