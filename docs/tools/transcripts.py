"""Runs the commands of a page and puts their real output into it.

python docs/tools/transcripts.py docs/tutorial.md FOLDER

A block of the kind `console` holds commands, each on a line that begins with `$ `, and what they print. All commands of
the page run in order in FOLDER; what they print takes the place of what the page had. Of many lines of
progress in a row the first and the last stay. The tutorial's files are copied into FOLDER first
and quoted in the page.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = CHECKOUT / "docs" / "examples" / "clothes"
QUOTED = re.compile(r"(?<=\n# docs/examples/clothes/)(\S+)\n.*?(?=```)", re.DOTALL)
BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
PROGRESS = re.compile(r"(prepare|measure|search|retrain|\S+ing)\b.* (\d+/|of )\d+")


def commands_of(block: str) -> list[str]:
    """Returns the commands of a block; one that ends in a backslash goes on in the next line."""
    return re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, flags=re.MULTILINE)


def shortened(output: str) -> str:
    """Returns the output with the first and the last of many lines of progress in a row."""
    kept: list[str] = []
    run: list[str] = []
    for line in [*output.rstrip("\n").split("\n"), ""]:
        if PROGRESS.match(line):
            run.append(line)
            continue
        kept += run if len(run) <= 3 else [run[0], "...", run[-1]]
        run = []
        kept.append(line.rstrip())
    return "\n".join(kept).rstrip("\n")


def ran(block: str, folder: Path) -> str:
    """Returns the block with the output of its commands. Raises CalledProcessError if one fails."""
    parts = []
    for command in commands_of(block):
        began = time.monotonic()
        ended = subprocess.run(
            command, shell=True, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        sys.stdout.write(f"{command}: status {ended.returncode}, {time.monotonic() - began:.0f} s\n")
        if ended.returncode not in (0, 3):
            sys.stdout.write(ended.stdout)
            raise subprocess.CalledProcessError(ended.returncode, command)
        parts.append(f"$ {command}\n{shortened(ended.stdout)}".rstrip("\n"))
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    shutil.copytree(FILES, args.folder, dirs_exist_ok=True)
    text = QUOTED.sub(lambda quote: f"{quote[1]}\n{(FILES / quote[1]).read_text()}", args.page.read_text())
    args.page.write_text(BLOCK.sub(lambda block: ran(block[0], args.folder), text))


if __name__ == "__main__":
    main()
