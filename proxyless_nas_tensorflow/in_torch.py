"""Runs a Keras model where a PyTorch module is expected, so that both are evaluated by the same code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proxyless_nas_tensorflow import libraries


class InTorch(nn.Module):
    """A Keras model as a PyTorch module without parameters: images (N, C, H, W) -> logits (N, classes).

    The model runs where TensorFlow puts it, in inference mode; the logits lie where the images do. There is no
    gradient.
    """

    def __init__(self, model: Any):
        super().__init__()
        tf = libraries.tensorflow()
        images = tf.TensorSpec(model.input_shape, tf.float32)  # any batch size, so the last batch is not traced again
        self._infer = tf.function(lambda x: model(x, training=False), input_signature=[images])

    def forward(self, images: Tensor) -> Tensor:
        rows = images.detach().to("cpu", torch.float32).permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
        logits = np.array(self._infer(rows.numpy()))  # a copy, which torch may write to
        return torch.from_numpy(logits).to(images.device)
