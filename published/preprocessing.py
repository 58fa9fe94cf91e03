"""Defines how the images of the published networks are prepared."""

from __future__ import annotations

from engine.data.preprocessing import MEAN_OF_PHOTOGRAPHS, STD_OF_PHOTOGRAPHS, Preprocessing


def preprocessing_of(name: str, size: int) -> Preprocessing:
    """Returns the preprocessing of a published network at an input size.

    The ImageNet networks take the shorter side at size / 0.875 (Resize(256) and CenterCrop(224) at 224), bilinear, with
    torchvision's mean and std. EfficientNet-Lite0 takes it bicubic, with mean 127 and std 128 of pixels to 255
    (tensorflow/tpu, efficientnet/lite); the CIFAR-10 network takes whole images with that set's own mean and std.
    """
    if name == "efficientnet_lite0":
        return Preprocessing.of_files(size, (127 / 255,) * 3, (128 / 255,) * 3, interpolation="bicubic")
    if name == "proxyless_cifar":
        return Preprocessing.of_squares(size, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    return Preprocessing.of_files(size, MEAN_OF_PHOTOGRAPHS[3], STD_OF_PHOTOGRAPHS[3])
