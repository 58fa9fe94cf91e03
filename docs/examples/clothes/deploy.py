"""Writes the retrained network as an ONNX file, and classifies a picture with ONNX Runtime alone.

python deploy.py runs/retrained clothes.onnx clothes/test/coat/00017.png
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image, ImageOps

import proxyless_nas as pn

run, file, picture = sys.argv[1:]
network = pn.pretrained(None, run)  # None: the architecture that the checkpoint holds
image = torch.zeros(1, 1, 28, 28)  # (N, channels, height, width)
torch.onnx.export(network, (image,), file, input_names=["image"], output_names=["logits"], dynamo=True, verbose=False)

# From here on only ONNX Runtime is needed, and the classes and the preprocessing that the checkpoint records
record = torch.load(max(Path(run, "checkpoints").glob("step-*.pt")), weights_only=True)
how = record["preprocessing"]  # the shorter side is resized to `side` pixels, and the centre is cut out
side, margin = how["shorter_side"], (how["shorter_side"] - how["input_size"]) // 2
resized = ImageOps.fit(Image.open(picture).convert("L"), (side, side), Image.Resampling.BILINEAR)
centre = ImageOps.crop(resized, margin)
pixels = np.asarray(centre, dtype=np.float32) / 255
inputs = ((pixels - how["mean"][0]) / how["std"][0]).astype(np.float32)[None, None]
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
(logits,) = session.run(None, {"image": inputs})  # (1, classes)
print(f"{file}: {Path(file).stat().st_size / 1000:.0f} kB")
print(f"{picture}: {record['classes'][logits.argmax()]}")
