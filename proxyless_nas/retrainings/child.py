"""Runs one retraining of a sweep in a process of its own:

    python -m proxyless_nas.retrainings.child CONFIG --out RUN --error FILE [--architecture FILE] [--resume] [key=value]

It prints what a retraining prints. If the retraining fails, FILE gets the error as data, for the record of the sweep.
"""

from __future__ import annotations

from engine.arguments import add_allow_modules, parsed, parser_of, path_argument
from engine.children import add_child_arguments, error_written
from engine.errors import run_command
from engine.processes import stop_with_parent


def main() -> int:
    """Runs the retraining and returns the exit status."""
    parser = parser_of(__doc__)
    parser.add_argument("config", type=path_argument)
    parser.add_argument("--architecture", type=path_argument)
    add_allow_modules(parser, "the architecture's file")
    add_child_arguments(parser)
    args = parsed(parser)
    stop_with_parent(parent=args.parent)

    from engine.progress import set_up_logging
    from proxyless_nas.starting import architecture_or_file, published_network
    from retrain.run import run_retrain

    set_up_logging()
    with error_written(args.error):
        run_retrain(
            args.config,
            architecture_or_file(args.architecture, args.allow_modules),
            args.out,
            resume=args.resume,
            overrides=args.overrides,
            allow_modules=args.allow_modules,
            published=published_network,
        )
    return 0


if __name__ == "__main__":
    run_command(main, resumable=True)
