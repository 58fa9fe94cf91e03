"""Runs one search of a sweep in a process of its own:

    python -m search.many.child CONFIG --out RUN --error FILE [--resume] [key=value ...]

It prints what a search prints. If the search fails, FILE gets the error as data, for the record of the sweep.
"""

from __future__ import annotations

from engine.arguments import parsed, parser_of, path_argument
from engine.children import add_child_arguments, error_written
from engine.errors import run_command
from engine.processes import stop_with_parent


def main() -> int:
    """Runs the search and returns the exit status: 0, or 3 if a limit is not met."""
    parser = parser_of(__doc__)
    parser.add_argument("config", type=path_argument)
    add_child_arguments(parser)
    args = parsed(parser)
    stop_with_parent(parent=args.parent)

    from engine.progress import set_up_logging
    from search.loop import run_search
    from search.summary import print_result

    set_up_logging()
    with error_written(args.error):
        result = run_search(args.config, args.out, resume=args.resume, overrides=args.overrides)
    print_result(result)
    return 0 if result.measured.met else 3


if __name__ == "__main__":
    run_command(main, resumable=True)
