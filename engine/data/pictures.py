"""Converts an image file to 8-bit pixels, in the same way for every set of image files.

    depth         16 bits become 8 by v >> 8, floats from 0 to 1 by round(255 v); other floats and 32-bit whole numbers
                  are refused, since the file does not define which of their values are black and white
    transparency  is composed on white
    orientation   an EXIF tag is followed (phones store how they were held)
    colour        CMYK, YCbCr, LAB, HSV and palettes become RGB, then grey where one channel is asked for; colour
                  profiles are not applied
    frames        of an animation or a document of several pages, the first

Whatever Pillow can decode is read (FORMATS), by content, whatever the name of the file is.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.errors import UserError, one_line
from engine.files import read_bytes

MOST_FILE_BYTES = 1 << 30

# Formats that Pillow can only identify, or passes to another program (Ghostscript, which runs code in the file).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

_WHITE = 255
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_ORIENTATION = 0x0112  # the EXIF tag
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableError(UserError):
    """A file cannot be read as an image. The message is the reason, without the file's name."""


@cache
def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that are read, the usual ones first."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_DECODED)


@cache
def extensions() -> frozenset[str]:
    """Returns the endings of these formats' files, in lower case and with their dot."""
    return frozenset(end.lower() for end, name in Image.registered_extensions().items() if name in formats())


def read_picture(path: str, channels: int) -> Image.Image:
    """Reads a picture, upright, in mode RGB, or in mode L if `channels` is 1.

    Raises UnreadableError, with the reason, if the file is no image, is damaged, too large, or has values without a
    known meaning. Raises UserError if the system cannot open any further file.
    """
    content = _content(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about metadata, which do not change the pixels
            with Image.open(io.BytesIO(content), formats=formats()) as image:
                return _upright(_eight_bits(image, channels), image)
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError(found="is no image, or of a format that is not read") from None
    except MemoryError:
        raise UnreadableError(found="needs more memory than there is") from None
    except Exception as error:  # a damaged file can make Pillow's decoders raise any exception
        raise UnreadableError(found=one_line(str(error), 200) or type(error).__name__) from error


def _content(path: str) -> bytes:
    try:
        return read_bytes(Path(path), "an image", UnreadableError, MOST_FILE_BYTES)
    except UnreadableError as error:
        raise UnreadableError(found=error.found) from None  # the reason alone, without the file's name


def _eight_bits(image: Image.Image, channels: int) -> Image.Image:
    """Returns the picture with 8 bits a pixel, in mode RGB or L, without transparency."""
    _scale_transparency(image)
    image.load()
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = _sixteen_bits(image)
        pixels = (values >> 8).astype(np.uint8)
        if isinstance(clear, int):
            pixels[values == clear] = _WHITE
        plain = Image.fromarray(pixels)
    elif image.mode == "F":
        plain = Image.fromarray(_from_floats(np.asarray(image)))
    elif image.has_transparency_data:
        plain = _on_white(image)
    else:
        plain = image
    if channels == 1:
        return plain if plain.mode == "L" else plain.convert("RGB").convert("L")
    return plain.convert("RGB")


def _scale_transparency(image: Image.Image) -> None:
    """Converts the transparent grey or colour of a PNG of 1, 2, 4 or 16 bits to 8 bits, as Pillow converts the
    pixels."""
    clear, mode = image.info.get("transparency"), image.mode
    tiles = getattr(image, "tile", [])  # every file that is not loaded yet has this attribute
    raw = tiles[0].args if image.format == "PNG" and tiles else None
    if isinstance(clear, int) and raw in ("1", "L;2", "L;4"):
        image.info["transparency"] = clear * {"1": 255, "L;2": 85, "L;4": 17}[raw]
    if isinstance(clear, tuple) and mode == "RGB" and raw == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    """Returns (H, W) whole numbers from 0 to 65535. Raises UnreadableError if the file holds anything else."""
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(_BITS_PER_SAMPLE, (16,)))
    signed = 2 in tags.get(_SAMPLE_FORMAT, (1,))
    if signed or bits > 16 or (image.mode == "I" and image.format not in ("PNG", "PPM", "TIFF")):
        kind = "signed" if signed and bits <= 16 else "32-bit"
        raise UnreadableError("", f"has {kind} whole numbers", "8 or 16 bits without a sign", "convert it")
    values: np.ndarray = np.asarray(image).astype(np.int32) << (16 - bits)
    return 65535 - values if tags.get(_PHOTOMETRIC) == 0 else values  # 0: zero means white


def _from_floats(values: np.ndarray) -> np.ndarray:
    """Converts (H, W) floats to uint8."""
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        found = f"has floats from {values.min():g} to {values.max():g}"
        raise UnreadableError("", found, "0 (black) to 1 (white)", "convert it")
    scaled: np.ndarray = np.rint(values * 255).astype(np.uint8)
    return scaled


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):  # colours multiplied by their alpha
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _upright(plain: Image.Image, image: Image.Image) -> Image.Image:
    """Returns `plain` turned as the EXIF tag of the loaded `image` demands, or unchanged if no tag can be read."""
    orientation = None
    with contextlib.suppress(Exception):  # the metadata are damaged, but the picture is whole
        orientation = image.getexif().get(_ORIENTATION)
    method = _TO_UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return plain if method is None else plain.transpose(method)
