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
record = torch.load(max(Path(run, "checkpoints").glob("step-*.pt")), weights_only=True)
how = record["preprocessing"]  # a picture's shorter side is resized to `side` pixels, and the centre is cut out
channels, size, side = how["channels"], how["input_size"], how["shorter_side"]  # 1, 28, 32 here; 3 for photographs

network = pn.pretrained(None, run)  # None: the architecture that the checkpoint holds
image = torch.zeros(1, channels, size, size)  # (N, channels, height, width)
names = {"input_names": ["image"], "output_names": ["logits"]}
torch.onnx.export(network, (image,), file, **names, dynamo=True, external_data=False, verbose=False)  # one file

# From here on only ONNX Runtime is needed, and the classes and the preprocessing that the checkpoint records
colours = Image.open(picture).convert("L" if channels == 1 else "RGB")
resized = ImageOps.fit(colours, (side, side), Image.Resampling.BILINEAR)
margin = (side - size) // 2
centre = resized.crop((margin, margin, margin + size, margin + size))
pixels = np.asarray(centre, dtype=np.float32).reshape(size, size, channels) / 255
inputs = ((pixels - how["mean"]) / how["std"]).astype(np.float32).transpose(2, 0, 1)[None]  # (1, channels, size, size)
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
(logits,) = session.run(None, {"image": inputs})  # (1, classes)
print(f"{file}: {Path(file).stat().st_size / 1000:.0f} kB")
print(f"{picture}: {record['classes'][logits.argmax()]}")
