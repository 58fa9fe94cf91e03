"""The doors' command lines: answered before anything heavy is imported, with `~` in every path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from latency.importers import IMPORTERS

CHECKOUT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.stem for path in (CHECKOUT / "scripts").glob("*.py"))
HEAVY = ("torch", "numpy", "scipy", "matplotlib", "pydantic", "rich", "yaml")

# Each script's --help and a mistyped option, each in a fork that has no module but what this program imports
PROGRAM = """
import contextlib, io, json, os, runpy, sys

def ended(script, arguments):
    read, write = os.pipe()
    if os.fork() == 0:
        sys.argv = [script, *arguments]
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                runpy.run_path(script, run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
        heavy = [name for name in HEAVY if name in sys.modules]
        os.write(write, json.dumps([status, heavy, out.getvalue()[:20000]]).encode())
        os._exit(0)
    os.close(write)
    with open(read) as file:
        return json.load(file)

HEAVY, scripts, calls = json.loads(sys.argv[1])
print(json.dumps([[ended(script, arguments) for arguments in calls] for script in scripts]))
"""
CALLS = {"help": ["--help"], "mistyped": ["--no-such-option"]}


@pytest.fixture(scope="module")
def answers(shell) -> dict[tuple[str, str], tuple[int, list[str], str]]:
    scripts = [str(CHECKOUT / "scripts" / f"{name}.py") for name in SCRIPTS]
    command = [sys.executable, "-c", PROGRAM, json.dumps([HEAVY, scripts, list(CALLS.values())])]
    ended = subprocess.run(command, env=shell, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(ended.stdout)
    return {
        (name, call): tuple(answer)
        for name, of_script in zip(SCRIPTS, found, strict=True)
        for call, answer in zip(CALLS, of_script, strict=True)
    }


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


def test_the_formats_of_the_command_line_are_those_of_the_importers(answers):
    """The script lists them itself, since the importers take long to import."""
    assert f"--format {{{','.join(sorted(IMPORTERS))}}}" in answers["import_latency", "help"][2]


def test_under_torchrun_a_mistyped_option_is_reported_once(shell, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(CHECKOUT / "scripts" / "run_search.py")
    ended = subprocess.run(
        [*command, script, "--no-such-option"], cwd=tmp_path, env=shell,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode != 0
    assert ended.stderr.count("run_search.py: error: ") == 1
