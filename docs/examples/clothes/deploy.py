"""Writes the retrained network as an ONNX file, and classifies a picture with ONNX Runtime alone.

python deploy.py runs/retrained clothes.onnx clothes/test/coat/00017.png
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

import proxyless_nas as pn

run, file, picture = sys.argv[1:]
network = pn.pretrained(None, run)  # None: the architecture that the checkpoint holds
image = torch.zeros(1, 1, 28, 28)  # (N, channels, height, width)
torch.onnx.export(network, (image,), file, input_names=["image"], output_names=["logits"], dynamo=True, verbose=False)

# From here on only ONNX Runtime is needed, and what the checkpoint says of classes and preprocessing
record = torch.load(max(Path(run, "checkpoints").glob("step-*.pt")), weights_only=True)
mean, std = record["preprocessing"]["mean"][0], record["preprocessing"]["std"][0]
pixels = np.asarray(Image.open(picture).convert("L"), dtype=np.float32) / 255  # 28 x 28 already
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
(logits,) = session.run(None, {"image": ((pixels - mean) / std).astype(np.float32)[None, None]})
print(f"{file}: {Path(file).stat().st_size / 1000:.0f} kB")
print(f"{picture}: {record['classes'][logits.argmax()]}")
