"""Writes hubconf.py, by which torch.hub loads a published network: with torch alone if its code can be written out,
else with this package."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Sequence

from engine.data import Preprocessing
from engine.errors import ConfigError

RESERVED = frozenset({"preprocess", "dependencies", "torch", "nn", "F", "hashlib", "io", "json", "pathlib", "math"})
"""Names that hubconf.py uses itself."""
MOST_CHARACTERS = 100


def entry_name(text: str) -> str:
    """Returns a valid entry point's name that is as near to a text as possible, such as that of a run's folder."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower()[:MOST_CHARACTERS]
    return name if _is_possible(name) else f"network_{name}".rstrip("_")


def check_name(name: str) -> str:
    """Returns the name of an entry point. Raises ConfigError if hubconf.py cannot have a function of that name."""
    if not _is_possible(name):
        found = f"got {name[:MOST_CHARACTERS]!r}" + (", which hubconf.py or Python uses itself" if _taken(name) else "")
        expected = f"an identifier of Python, such as {entry_name(name[:MOST_CHARACTERS])}, not beginning with '_'"
        raise ConfigError("--name", found, expected)
    return name


def _taken(name: str) -> bool:
    return keyword.iskeyword(name) or name in RESERVED or hasattr(builtins, name)


def _is_possible(name: str) -> bool:
    plain = name.isascii() and name.isidentifier() and not name.startswith("_") and len(name) <= MOST_CHARACTERS
    return plain and not _taken(name)


def hubconf(name: str, code: str | None, preprocessing: Preprocessing | None, modules: Sequence[str]) -> str:
    """Returns the text of hubconf.py.

    name: of its entry point. code: the network as plain code (report/portable.py); None loads it with this package.
    preprocessing: None leaves the function `preprocess` out. modules: the user's modules that the network's
    architecture names.
    """
    needs = "It needs torch alone" if code else "It needs the package proxylessnas (`pip install proxylessnas`)"
    with_pictures = preprocessing is not None and preprocessing.colours in (1, 3)
    parts = [
        _HEAD.format(name=name, needs=needs + ("; `preprocess` needs Pillow." if with_pictures else ".")),
        f'dependencies = ["torch"{"" if code else ", " + chr(34) + "proxyless_nas" + chr(34)}]\n{_CONFIG}',
        (_PLAIN if code else _INSTALLED).format(name=name, modules=list(modules)),
    ]
    if preprocessing is not None and with_pictures:
        parts.append(preprocess_code(preprocessing))
    parts.append(_WEIGHTS)
    if code:
        parts.append(code)
    return "\n\n".join(part.strip("\n") + "\n" for part in parts)


def preprocess_code(preprocessing: Preprocessing) -> str:
    """Returns the source of a function `preprocess`, which does with Pillow and torch what the preprocessing does."""
    p = preprocessing
    values = {
        "mode": "L" if p.colours == 1 else "RGB", "S": p.input_size, "C": p.channels, "colours": p.colours,
        "mean": p.mean[: p.colours], "std": p.std[: p.colours], "interpolation": p.interpolation,
        "words": p.resize, "upper": p.interpolation.upper(), "side": p.shorter_side,
    }  # fmt: skip
    resize = _WHOLE if p.shorter_side is None else _CENTRE
    return _PREPROCESS.format(resize=resize.format(**values).rstrip(), **values)


_HEAD = '''"""The network `{name}`: torch.hub.load("PATH OF THIS FOLDER", "{name}", source="local").

Written by `proxyless-nas publish`; README.md says what it is. {needs}
"""

import hashlib
import io
import json
import pathlib

import torch
import torch.nn as nn
import torch.nn.functional as F  # noqa: F401
'''
_CONFIG = """_FOLDER = pathlib.Path(__file__).resolve().parent
_CONFIG = json.loads((_FOLDER / "config.json").read_text(encoding="utf-8"))
"""
_PLAIN = '''def {name}(pretrained=True):
    """Returns the network, (N, C, S, S) -> logits (N, classes), on the CPU.

    pretrained: whether it has its published weights, and is in eval mode; otherwise its weights are fresh. The names of
    the classes are in its `class_names`, or None if they are not known.
    """
    net = _Network()
    if pretrained:
        net.load_state_dict(_weights()["state_dict"])
        net.eval()
    net.class_names = None if _CONFIG["classes"] is None else tuple(_CONFIG["classes"])
    return net
'''
_INSTALLED = '''def {name}(pretrained=True):
    """Returns the network, (N, C, S, S) -> logits (N, classes), on the CPU.

    pretrained: whether it has its published weights, and is in eval mode; otherwise its weights are fresh. The names of
    the classes are in its `class_names`, or None if they are not known.
    """
    import proxyless_nas

    _weights()
    net = proxyless_nas.pretrained(None, _FOLDER / _CONFIG["weights"], allow_modules={modules!r})
    if not pretrained:
        names, net = net.class_names, proxyless_nas.Network(net.architecture)
        net.class_names = names
    return net
'''
_WEIGHTS = '''
def _weights():
    """Returns the content of the weights' file, read as tensors and plain values alone: no code in it runs."""
    path = _FOLDER / _CONFIG["weights"]
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != _CONFIG["sha256"][path.name]:
        raise RuntimeError(f"{path}: is not the file that was published, its SHA-256 differs; fetch it again")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
'''
_PREPROCESS = '''def preprocess(picture):
    """Returns the input (1, {C}, {S}, {S}) float32 that a picture gives: {words}, then normalised.

    picture: a PIL image of 8 bits a channel, or the path of an image file. EXIF's orientation is followed, and
    transparency is composed on white.
    """
    from PIL import Image, ImageOps

    if not isinstance(picture, Image.Image):
        with Image.open(picture) as file:
            file.load()
            picture = file
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    if picture.mode != "{mode}":
        picture = picture.convert("RGB").convert("{mode}")
{resize}
    shift, scale = (255 * torch.tensor(values).view(1, -1, 1, 1) for values in ({mean}, {std}))
    return ((pixels.float() - shift) / scale).expand(-1, {C}, -1, -1).contiguous()


def _pixels(picture):
    """Returns the pixels (1, colours, H, W) uint8 of a picture."""
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(1, picture.height, picture.width, {colours}).permute(0, 3, 1, 2)
'''
_WHOLE = """    pixels = _pixels(picture)
    if pixels.shape[-2:] != ({S}, {S}):
        pixels = F.interpolate(pixels.float(), size=({S}, {S}), mode="{interpolation}", antialias=True)
        pixels = pixels.round_().clamp_(0, 255)
"""
_CENTRE = """    width, height = picture.size
    most = 16 * min(width, height)  # of a longer picture its middle
    left, top = max(0, width - most) // 2, max(0, height - most) // 2
    picture = picture.crop((left, top, left + min(width, most), top + min(height, most)))
    width, height = picture.size
    longer = int({side} * max(width, height) / min(width, height))
    size = ({side}, longer) if width <= height else (longer, {side})
    picture = picture.resize(size, Image.Resampling.{upper})
    left, top = (round((length - {S}) / 2) for length in size)
    pixels = _pixels(picture.crop((left, top, left + {S}, top + {S})))
"""
