"""Classifies a photo with an exported file alone:  python deploy_litert.py network.tflite photo.jpg

It needs ai-edge-litert, numpy and pillow; network.tflite.json lies beside the file.
"""

import json
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

file, photo = sys.argv[1:]
interpreter = Interpreter(model_path=file)
interpreter.allocate_tensors()
with open(f"{file}.json", encoding="utf-8") as text:
    about = json.load(text)

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

interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
interpreter.invoke()
logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
for i in shares.argsort()[::-1][:3]:
    print(f"{100 * shares[i]:5.1f} %  {about['classes'][i]}")
