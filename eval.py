"""Evaluates a published network on ImageNet:

    python eval.py --path /imagenet --arch proxyless_cpu

These are the options of the published project; `proxyless-nas evaluate` has more, and other networks.
"""

from engine.arguments import parsed, parser_of
from engine.errors import run_command
from proxyless_nas.commands.evaluate import add_published_options, evaluate_folder


def main() -> None:
    parser = parser_of(__doc__)
    add_published_options(parser)
    args = parsed(parser)
    run_command(lambda: evaluate_folder(args))


if __name__ == "__main__":
    main()
