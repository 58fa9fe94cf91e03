"""Exports a trained network to the files of runtimes, and checks each against PyTorch:

    proxyless-nas export runs/r --to onnx --out exported
    proxyless-nas export runs/cpu/architecture.json --checkpoint runs/r/checkpoints/X.pt --to onnx,litert --out exported
    proxyless-nas export efficientnet_lite0 --to onnx,torch_export --normalise --path /imagenet --out exported
    proxyless-nas export runs/r --to onnx,openvino --dtype int8 --out exported

Formats: onnx, openvino, litert, executorch, torch_export, torchscript, saved_model. Each file is loaded in its runtime
in a fresh process and compared with PyTorch, on random inputs and on photographs, one image at a time and several; a
file that computes something else is not kept. The folder gets export.json too: the differences, versions and hashes.

--dtype int8 (onnx, openvino, litert) quantises after training: weights with a scale for each output channel, and
activations, whose ranges follow from training images. A file that loses more than --max-drop points of top-1 accuracy
is not kept; the error names the layers that cost most.
"""

import argparse

from engine.arguments import add_allow_modules, path_argument
from proxyless_nas.commands.base import Command, at_least


def _formats(text: str) -> list[str]:
    """Returns the names in a text such as `onnx,litert`."""
    return list(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))


def _layers(text: str) -> "int | list[str]":
    """Returns a number of layers, or the names in a text such as `stem.conv,classifier.linear`."""
    return int(text) if text.isdecimal() else _formats(text)


def _batch(text: str) -> "int | str":
    """Returns a number of images, or `any`."""
    return text if text == "any" else at_least(1)(text)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        help="folder of a retraining or a .pt file of its checkpoints/, the name of a published network, a trained "
        "int8 network (.pkl, as float), or, with "
        "--checkpoint, an architecture.json or a net.config",
    )
    parser.add_argument(
        "--checkpoint", type=path_argument, help="file of the weights of an architecture.json or net.config"
    )
    parser.add_argument(
        "--to", type=_formats, default=["onnx"], metavar="F,F", help="formats, separated by commas; default: onnx"
    )
    parser.add_argument("--out", type=path_argument, required=True, help="folder for the files")
    parser.add_argument("--size", type=at_least(1), help="height and width of the input; default: the network's")
    parser.add_argument(
        "--batch", type=_batch, metavar="N", help="images at once, or `any`; default: any where the format can, else 1"
    )
    parser.add_argument(
        "--layout", choices=("nchw", "nhwc"), help="order of the input's dimensions; default: the format's own"
    )
    parser.add_argument(
        "--normalise", action="store_true", help="the file takes pixels from 0 to 255 and normalises them itself"
    )
    parser.add_argument("--path", type=path_argument, help="labelled images, on which accuracies are compared too")
    parser.add_argument("--dtype", choices=("float32", "int8"), default="float32", help="default: float32")
    parser.add_argument(
        "--calibration", type=path_argument, metavar="FOLDER", help="for int8: training images; default: the run's own"
    )
    parser.add_argument(
        "--calibration-images",
        type=at_least(1),
        default=512,
        metavar="N",
        help="how many of them; default: %(default)s",
    )
    parser.add_argument(
        "--max-drop", type=float, default=1.0, metavar="P", help="the most that int8 may lose of top-1 accuracy on "
        "--path, or on the run's own test images, in percentage points; default: %(default)g"
    )  # fmt: skip
    parser.add_argument(
        "--keep-layers", type=_layers, default=0, metavar="N|L,L",
        help="how many of the layers that cost most in int8 stay in float32, or their names; default: 0",
    )  # fmt: skip
    parser.add_argument(
        "--weight-bits", type=int, choices=(8, 7), default=8, help="for int8: bits of the weights. On x86 CPUs "
        "without VNNI, 7 makes ONNX Runtime fast and OpenVINO right, and costs accuracy; default: %(default)s",
    )  # fmt: skip
    add_allow_modules(parser, "the architecture's file or the checkpoint")


def _run(args: argparse.Namespace) -> None:
    from engine.progress import Stages, set_up_logging
    from proxyless_nas.verbs import export

    set_up_logging()
    with Stages() as report:
        exported = export(
            args.source,
            args.out,
            args.to,
            dtype=args.dtype,
            calibration=args.calibration,
            calibration_images=args.calibration_images,
            max_drop=args.max_drop,
            keep_layers=args.keep_layers,
            weight_bits=args.weight_bits,
            checkpoint=args.checkpoint,
            size=args.size,
            batch=args.batch,
            layout=args.layout,
            normalise=args.normalise,
            images=args.path,
            allow_modules=args.allow_modules,
            report=report,
        )
    for file in exported:
        print(file)


COMMAND = Command(__doc__, _arguments, _run)
