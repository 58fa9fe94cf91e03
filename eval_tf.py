"""Evaluates a published network in TensorFlow on ImageNet:

    python eval_tf.py --path /imagenet --arch proxyless_cpu

The options, the images and the counts are those of eval.py; the network is a Keras model with the weights of the
PyTorch checkpoint. TensorFlow is installed by: pip install "proxylessnas[tensorflow]"
"""

from __future__ import annotations

import argparse

from engine.arguments import parsed, parser_of
from engine.errors import run_command
from proxyless_nas.commands.evaluate import add_published_options, evaluate_folder


def evaluate(args: argparse.Namespace) -> None:
    from proxyless_nas_tensorflow import InTorch, keras_model, libraries

    libraries.keras()  # first, so that nothing is downloaded in vain
    evaluate_folder(args, lambda network: InTorch(keras_model(network)))


def main() -> None:
    parser = parser_of(__doc__)
    add_published_options(parser)
    args = parsed(parser)
    run_command(lambda: evaluate(args))


if __name__ == "__main__":
    main()
