"""The subcommands of `proxyless-nas`, a module for each; COMMANDS has them all.

A module has a COMMAND, or COMMANDS if there are further words, such as `kit export`. See base.py for what a command is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from engine.arguments import parsed, parser_of
from engine.errors import run_command
from engine.nearest import nearest
from proxyless_nas.commands import (
    check,
    compare,
    completion,
    configs,
    convert,
    data,
    derive,
    evaluate,
    export,
    fit,
    import_table,
    kit,
    measure,
    predict,
    publish,
    quickstart,
    report,
    retrain,
    search,
    ship,
    show,
    sweep,
    time,
)
from proxyless_nas.commands.base import Command

NAME = "proxyless-nas"

COMMANDS: Mapping[str, Command | Mapping[str, Command]] = {
    "quickstart": quickstart.COMMAND,
    "ship": ship.COMMAND,
    "measure": measure.COMMAND,
    "fit": fit.COMMAND,
    "import": import_table.COMMAND,
    "kit": kit.COMMANDS,
    "data": data.COMMANDS,
    "check": check.COMMAND,
    "search": search.COMMAND,
    "derive": derive.COMMAND,
    "sweep": sweep.COMMAND,
    "retrain": retrain.COMMAND,
    "evaluate": evaluate.COMMAND,
    "predict": predict.COMMAND,
    "export": export.COMMAND,
    "time": time.COMMAND,
    "show": show.COMMAND,
    "compare": compare.COMMAND,
    "convert": convert.COMMAND,
    "report": report.COMMAND,
    "publish": publish.COMMAND,
    "configs": configs.COMMANDS,
    "completion": completion.COMMAND,
}
"""Each subcommand, in the order of the work."""

_TEXTS = {"kit": kit.__doc__, "data": data.__doc__, "configs": configs.__doc__}
_ALONE = {"configs": "list"}
"""The word that is meant if a group of commands is called without one."""

_HEAD = """Neural architecture search for the latency of your device.

    proxyless-nas quickstart                                   the whole job in minutes, on bundled images
    proxyless-nas predict proxyless_cpu photo.jpg              a published network, without a search

Your own images (docs/questions.md), a folder for each class:

    proxyless-nas data show photos                             what is there, and what is wrong with it
    proxyless-nas configs copy own_images_cpu .                a file to edit: classes, data.root, data.test, limit
    proxyless-nas measure own_images_cpu.yaml --out tables/own_images_cpu.yaml --verify 40
    proxyless-nas search own_images_cpu.yaml --out runs/mine
    proxyless-nas retrain own_images --architecture runs/mine --out runs/retrained data.root=photos data.test=0.2
    proxyless-nas export runs/retrained --to onnx --out exported

commands (each has its own --help):
"""


def main(words: Sequence[str] | None = None, prog: str = NAME) -> NoReturn:
    """Runs a subcommand and ends the process with its exit status.

    words: the subcommand and its arguments, by default those of the command line. prog: the program's name in usage
    lines.
    """
    words = sys.argv[1:] if words is None else words
    commands: Command | Mapping[str, Command | Mapping[str, Command]] = COMMANDS
    while not isinstance(commands, Command):
        if not words and prog.removeprefix(f"{NAME} ") in _ALONE:
            words = [_ALONE[prog.removeprefix(f"{NAME} ")]]
        word = _choose(prog, commands, words)
        commands, words, prog = commands[word], words[1:], f"{prog} {word}"
    run(commands, words, prog)


def run(command: Command, words: Sequence[str], prog: str) -> NoReturn:
    """Runs one command with its arguments `words` and ends the process with its exit status."""

    def work() -> int | None:
        parser = parser_of(command.text, prog)
        command.arguments(parser)
        return command.run(parsed(parser, words))

    run_command(work, resumable=command.resumable)
    raise AssertionError("run_command ends the process")


def script(*words: str) -> None:
    """Runs a subcommand for a file of scripts/, whose name the usage lines show.

    words: the subcommand; further words of a group, such as `export` of `kit`, come from the command line.
    """
    command = COMMANDS[words[0]]
    prog = sys.argv[0].rpartition("/")[2]
    if isinstance(command, Command):
        run(command, sys.argv[1:], prog)
    word = _choose(prog, command, sys.argv[1:])
    run(command[word], sys.argv[2:], f"{prog} {word}")


def whole_parser(adapt: Callable[[argparse.Action], None]) -> argparse.ArgumentParser:
    """Returns one parser of all commands, for programs that describe it; it parses no overrides after options.

    adapt: called with each argument.
    """

    def fill(parser: argparse.ArgumentParser, commands: Mapping[str, Command | Mapping[str, Command]]) -> None:
        below = parser.add_subparsers()
        for name, command in commands.items():
            if isinstance(command, Command):
                one = below.add_parser(name, help=command.summary.replace("%", "%%"))
                command.arguments(one)
                for action in one._actions:
                    adapt(action)
            else:
                fill(below.add_parser(name, help=_summary(name).replace("%", "%%")), command)

    parser = parser_of(_HEAD, NAME)
    fill(parser, COMMANDS)
    return parser


def _choose(prog: str, commands: Mapping[str, Command | Mapping[str, Command]], words: Sequence[str]) -> str:
    """Returns the command that the first word names. Ends the process with a usage line if it names none."""

    def known(word: str) -> str:
        if word in commands:
            return word
        near = nearest(word, commands)
        hint = f". Did you mean '{near}'?" if near else ""
        raise argparse.ArgumentTypeError(f"got '{word[:80]}', expected {', '.join(commands)}{hint}")

    group = _TEXTS.get(prog.rpartition(" ")[2])
    listed = "\n".join(f"  {name:{max(map(len, commands))}}  {_summary_of(name, commands)}" for name in commands)
    parser = parser_of(f"{group}\ncommands (each has its own --help):\n{listed}" if group else _HEAD + listed, prog)
    if not group:
        parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("command", type=known, metavar="COMMAND", help="one of the above")
    if not words:  # a name alone asks what there is; the status stays that of a usage error
        parser.print_help(sys.stderr)
        parser.exit(2)
    word: str = parsed(parser, words[:1]).command
    return word


def _summary_of(name: str, commands: Mapping[str, Command | Mapping[str, Command]]) -> str:
    command = commands[name]
    return command.summary if isinstance(command, Command) else _summary(name)


def _summary(group: str) -> str:
    return (_TEXTS[group] or "").partition("\n")[0].rstrip(":.")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{NAME} {version('proxylessnas')}"
    except PackageNotFoundError:
        return f"{NAME} of a checkout"
