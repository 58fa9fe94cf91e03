"""Runs command lines that must answer without a slow import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

HEAVY = ("torch", "numpy", "scipy", "matplotlib", "pydantic", "rich", "yaml")

# Each command line in a fork, which has no module but what this program and the call import
_PROGRAM = """
import contextlib, io, json, os, runpy, sys

def ended(words):
    read, write = os.pipe()
    if os.fork() == 0:
        sys.argv = words
        out, status = io.StringIO(), 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                exec(CALL)
        except SystemExit as end:
            status = end.code
        heavy = [name for name in HEAVY if name in sys.modules]
        os.write(write, json.dumps([status, heavy, out.getvalue()[:20000]]).encode())
        os._exit(0)
    os.close(write)
    with open(read) as file:
        return json.load(file)

HEAVY, CALL, lines = json.loads(sys.argv[1])
print(json.dumps([ended(words) for words in lines]))
"""
SCRIPT = "runpy.run_path(sys.argv[0], run_name='__main__')"
"""Runs the script that the first word names."""
COMMAND = "from proxyless_nas.commands import main; main(sys.argv)"
"""Runs `proxyless-nas` with the words."""


def answers(call: str, lines: Sequence[Sequence[str]], shell: Mapping[str, str]) -> list[tuple[int, list[str], str]]:
    """Runs command lines by `call`, SCRIPT or COMMAND. Returns for each the exit status, the slow modules that were
    imported, and what was printed."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps([HEAVY, call, lines])]
    ended = subprocess.run(command, env=shell, capture_output=True, text=True, check=True, timeout=120)
    return [(status, heavy, text) for status, heavy, text in json.loads(ended.stdout)]
