"""The published networks in TensorFlow, and any other network of this project as a Keras model.

    from proxyless_nas_tensorflow import proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14
    net = proxyless_cpu(pretrained=True)  # a keras.Model: images (N, 224, 224, 3) -> logits (N, 1000)

- `networks.py`: the published networks by name
- `builder.py`: the Keras model of a network, layer by layer, with its weights
- `saved_model.py`: writes a SavedModel
- `in_torch.py`: runs a Keras model where a PyTorch module is expected, as in an evaluation
- `libraries.py`: imports TensorFlow, which the extra `[tensorflow]` installs, when it is first needed
"""

from proxyless_nas_tensorflow.builder import keras_model
from proxyless_nas_tensorflow.in_torch import InTorch
from proxyless_nas_tensorflow.networks import (
    build,
    efficientnet_lite0,
    mobilenet_v2,
    proxyless_cifar,
    proxyless_cpu,
    proxyless_gpu,
    proxyless_mobile,
    proxyless_mobile14,
    proxyless_mobile_14,
)
from proxyless_nas_tensorflow.saved_model import export_saved_model

__all__ = [
    "InTorch",
    "build",
    "efficientnet_lite0",
    "export_saved_model",
    "keras_model",
    "mobilenet_v2",
    "proxyless_cifar",
    "proxyless_cpu",
    "proxyless_gpu",
    "proxyless_mobile",
    "proxyless_mobile14",
    "proxyless_mobile_14",
]
