"""Prints a program for your shell that completes subcommands, options, files and names of configurations:

    proxyless-nas completion bash > ~/.local/share/bash-completion/completions/proxyless-nas
    proxyless-nas completion zsh > ~/.zsh/completions/_proxyless-nas     # a folder in $fpath

It takes effect in a new shell.
"""

import argparse

from proxyless_nas.commands.base import Command

SHELLS = ("bash", "zsh")
CONFIGS = {"bash": "_proxyless_nas_configs", "zsh": "_proxyless_nas_configs"}
"""The function that completes a configuration, in each shell."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def _run(args: argparse.Namespace) -> None:
    import shtab

    from engine.arguments import path_argument
    from engine.shipped import shipped_configs
    from proxyless_nas.commands import whole_parser
    from proxyless_nas.commands.base import table_argument

    names = " ".join(shipped_configs())
    preamble = {
        "bash": f'{CONFIGS["bash"]}() {{ compgen -W "{names}" -- "$1"; _shtab_compgen_files "$1"; }}',
        "zsh": f"{CONFIGS['zsh']}() {{ compadd -- {names}; _files; }}",
    }

    def complete(action: argparse.Action) -> None:
        if action.dest in ("config", "configs"):
            action.complete = CONFIGS  # type: ignore[attr-defined]
        elif action.type in (path_argument, table_argument):
            action.complete = shtab.FILE  # type: ignore[attr-defined]

    print(shtab.complete(whole_parser(complete), args.shell, preamble=preamble[args.shell]))


COMMAND = Command(__doc__, _arguments, _run)
