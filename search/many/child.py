"""Runs one search of a sweep in a process of its own:

    python -m search.many.child CONFIG --out RUN --error FILE [--resume] [key=value ...]

It prints what a search prints. If the search fails, FILE gets the error as data, for the record of the sweep.
"""

from __future__ import annotations

from engine.arguments import parsed, parser_of, path_argument
from engine.children import write_error
from engine.errors import run_command
from engine.processes import stop_with_parent


def main() -> int:
    """Runs the search and returns the exit status: 0, or 3 if a limit is not met."""
    parser = parser_of(__doc__)
    parser.add_argument("config", type=path_argument)
    parser.add_argument("--out", type=path_argument, required=True)
    parser.add_argument("--error", type=path_argument, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parsed(parser)
    stop_with_parent()

    from engine.progress import set_up_logging
    from search.loop import run_search
    from search.summary import print_result

    set_up_logging()
    try:
        result = run_search(args.config, args.out, resume=args.resume, overrides=args.overrides)
    except Exception as error:
        write_error(args.error, error)
        raise
    print_result(result)
    return 0 if result.measured.met else 3


if __name__ == "__main__":
    run_command(main, resumable=True)
