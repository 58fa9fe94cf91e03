"""Classifies a photo with an exported file alone:  python deploy_onnx.py network.onnx photo.jpg

It needs onnxruntime, numpy and pillow.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

file, photo = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")  # int8 without overflow on x86 CPUs without VNNI
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}

how, size = about["preprocessing"], about["preprocessing"]["input_size"]
picture = ImageOps.exif_transpose(Image.open(photo)).convert("RGB" if how["colours"] == 3 else "L")
resampling = Image.Resampling[how.get("interpolation", "bilinear").upper()]
if how["shorter_side"] is None:  # the whole picture becomes a square
    picture = picture.resize((size, size), resampling)
else:  # the shorter side to this many pixels, then the central square
    shorter = min(picture.size)
    wide, tall = (int(how["shorter_side"] * side / shorter) for side in picture.size)
    left, top = round((wide - size) / 2), round((tall - size) / 2)
    picture = picture.resize((wide, tall), resampling).crop((left, top, left + size, top + size))
image = np.asarray(picture, np.float32).reshape(size, size, -1)
if about["input"]["values"] == "normalised pixels":  # else the file does this itself
    image = (image / 255 - how["mean"]) / how["std"]
image = np.broadcast_to(image, (size, size, how["channels"]))
image = image[None] if about["input"]["layout"] == "nhwc" else image.transpose(2, 0, 1)[None]
image = np.ascontiguousarray(image, dtype=np.float32)  # a batch of one

logits = session.run(["logits"], {"images": image})[0][0]
shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
for i in shares.argsort()[::-1][:3]:
    print(f"{100 * shares[i]:5.1f} %  {about['classes'][i]}")
