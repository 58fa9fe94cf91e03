"""Lists the configurations that come with the package, prints one, or copies one to edit:

    proxyless-nas configs
    proxyless-nas configs show imagenet_cpu
    proxyless-nas configs copy imagenet_cpu my_configs

`search`, `measure`, `retrain` and the others take such a name in place of a file, and so does `extends:` in a file.
"""

import argparse
import os
import re
import shlex
from pathlib import Path

from engine.arguments import path_argument
from proxyless_nas.commands.base import Command

LIST = """Lists the configurations that come with the package, each with its first line:

    proxyless-nas configs list
"""
SHOW = """Prints a configuration with all that it extends:

    proxyless-nas configs show imagenet_cpu
"""
COPY = """Copies a configuration, and the files that it extends, to edit:

    proxyless-nas configs copy imagenet_cpu .
    proxyless-nas search imagenet_cpu.yaml --out runs/mine

A file that exists is not overwritten.
"""


def first_line(path: Path) -> str:
    """Returns the first sentence of a configuration's comment, without the word `What:`."""
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("# What: ").rstrip(".")


def whole_text(path: Path) -> str:
    """Returns a configuration as one text with all that it extends: `load_config` reads the same from it.

    The comments of the file are kept, and those inside the sections of the files that it extends. A section that more
    than one of them has is written out anew.
    """
    from engine.config import config_text, load_config

    head, sections = _sections(path.read_text(encoding="utf-8"))
    extends = sections.pop("extends", None)
    if extends is None:
        return path.read_text(encoding="utf-8")
    base = path.parent / extends.partition(":")[2].strip()  # a shipped file extends one file, and nothing follows it
    _, below = _sections(whole_text(base))
    both = {key: load_config(path)[key] for key in below if key in sections}
    texts = below | sections | {key: config_text({key: value}) for key, value in both.items()}
    return head + "".join(texts.values())


def _sections(text: str) -> tuple[str, dict[str, str]]:
    """Returns the comment that a file opens with, and the text of each top-level section by its key."""
    head, *rest = re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)
    return head, {part.partition(":")[0]: part for part in rest}


def copy(name: str, folder: Path) -> Path:
    """Writes a shipped configuration, as `whole_text` has it, into a folder. Returns the new file.

    The commands in its comment name the new file. Raises ConfigError if there is such a file already.
    """
    from engine.errors import ConfigError, one_line
    from engine.files import make_folder, write_atomically
    from engine.shipped import shipped_config

    source = shipped_config(name)
    target = folder / source.name
    make_folder(folder)
    if os.path.lexists(target):  # a link that leads nowhere is something of the user's too
        raise ConfigError(str(target), "is there already", remedy="choose another folder, or rename that file")
    command = re.compile(rf"^(#.* proxyless-nas \w+) {re.escape(name)} ", flags=re.M)
    argument = shlex.quote(one_line(str(target)))  # the comment stays one line of UTF-8, whatever the folder's name
    text = command.sub(lambda found: f"{found[1]} {argument} ", whole_text(source))
    write_atomically(target, text)
    return target


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="NAME", help="one that `proxyless-nas configs` lists")


def _copy_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    parser.add_argument("folder", type=path_argument, metavar="FOLDER", help="where to put it; made if it is not there")


def _list(args: argparse.Namespace) -> None:
    from engine.shipped import shipped_configs

    names = shipped_configs()
    width = max(map(len, names))
    for name, path in names.items():
        print(f"{name:{width}}  {first_line(path)}")


def _show(args: argparse.Namespace) -> None:
    from engine.shipped import shipped_config

    print(whole_text(shipped_config(args.config)), end="")


def _copy(args: argparse.Namespace) -> None:
    path = copy(args.config, args.folder)
    print(f"{path}: edit it, then give it to proxyless-nas in place of the name {args.config}")


COMMANDS = {
    "list": Command(LIST, lambda parser: None, _list),
    "show": Command(SHOW, _name, _show),
    "copy": Command(COPY, _copy_arguments, _copy),
}
