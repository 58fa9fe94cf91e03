"""Converts an image file to 8-bit pixels, in the same way for every set of image files.

    depth         16 bits become 8 by v >> 8, floats from 0 to 1 by round(255 v); other floats and 32-bit whole numbers
                  are refused, since the file does not define which of their values are black and white
    transparency  is composed on white; if all pixels of a BMP, TGA or ICO file are fully transparent, the file has
                  none: many programs leave the byte 0 that might hold it
    orientation   an EXIF tag is followed (phones store how they were held)
    colour        CMYK, YCbCr, LAB, HSV and palettes become RGB, then grey where one channel is asked for; colour
                  profiles and gamma are not applied
    frames        of an animation or a document of several pages, the first; where that of a GIF or a WebP leaves its
                  canvas uncovered, the picture is white. The first image of an animated PNG may be no frame: browsers
                  do not show it, but programs that know no animations, such as the decoders of devices, show it alone

Whatever Pillow can decode is read (FORMATS), by content, whatever the name of the file is.

A training takes a part of each picture and resizes it. `part_of_picture` decodes a JPEG file at 1/2, 1/4 or 1/8 of its
size if the part still has the pixels that are needed (libjpeg computes smaller blocks from the same coefficients), and
through simplejpeg where that is installed: it gives the pixels that Pillow gives (both use libjpeg-turbo), in less
time.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from engine.errors import ConfigError, UserError, one_line
from engine.files import read_bytes
from engine.nearest import nearest_path

MOST_FILE_BYTES = 1 << 30

# Formats that Pillow can only identify, or passes to another program (Ghostscript, which runs code in the file).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

_NOT_READ = (
    *((4, b"ftyp" + brand, "a HEIC picture") for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"<svg", "a drawing (SVG)"),
    (0, b"II*\0", "a TIFF file, damaged or of a kind that Pillow does not decode"),
    (0, b"MM\0*", "a TIFF file, damaged or of a kind that Pillow does not decode"),
    (0, b"<!DOCTYPE html", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"version https://git-lfs", "a pointer of Git LFS"),
)
"""Where other files have which bytes, and what they are."""
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # it logs what it raises, without the file's name

_NO_IMAGE = "is no image, or of a format that is not read"
_WHITE = 255
_ALPHA_OFTEN_UNUSED = ("BMP", "DIB", "TGA", "ICO")  # viewers show the colours of such a file if all its alpha is 0
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # TIFF tags
_APART, _SIGNED = 2, 2  # of _PLANES: one plane for each colour; of _SAMPLE_FORMAT
_START_AND_SIZ = b"\xff\x4f\xff\x51"  # the markers at the beginning of a JPEG 2000 image
_SIZ_BEFORE_COMPONENTS = 36  # bytes of SIZ between its length and its first component
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
_LYING = (5, 6, 7, 8)
"""The orientations whose stored rows are the columns of the upright picture."""
_UPSIDE_DOWN = (3, 4, 6, 7)
"""The orientations whose first stored row is the last row, or column, of the upright picture."""
_MIRRORED = (2, 3, 7, 8)
"""The orientations whose first stored column is the last column, or row, of the upright picture."""
_FRACTIONS = (1, 2, 4, 8)
"""A JPEG file is decoded at 1/n of its size, for these n."""


class UnreadableError(UserError):
    """A file cannot be read as an image. The message is the reason, without the file's name."""


@cache
def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that are read, the usual ones first."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_DECODED)


USUAL = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that an error names."""
ACCEPTED = f"a picture: {', '.join(USUAL)}, or another format that Pillow decodes"
"""What a program that reads one picture accepts, in words."""


@cache
def extensions() -> frozenset[str]:
    """Returns the endings of these formats' files, in lower case and with their dot."""
    read = {*formats(), "MPO"}  # which Pillow opens as JPEG
    return frozenset(end.lower() for end, name in Image.registered_extensions().items() if name in read)


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def content_of(path: str) -> bytes:
    """Returns the bytes of a file. Raises UnreadableError, with the reason, or UserError if the system cannot open any
    further file."""
    try:
        return read_bytes(Path(path), "an image", UnreadableError, MOST_FILE_BYTES)
    except UnreadableError as error:
        raise UnreadableError(found=error.found) from None  # the reason alone, without the file's name


def read_picture(path: str, channels: int) -> Image.Image:
    """Reads the picture in a file; see `whole_picture`. Raises UserError if the system cannot open any further file."""
    return whole_picture(content_of(path), channels)


def whole_picture(content: bytes | np.ndarray, channels: int) -> Image.Image:
    """Returns the picture in the bytes of a file, upright, in mode RGB, or in mode L if `channels` is 1; or the one
    whose pixels (height, width, channels) uint8 are given.

    Raises UnreadableError, with the reason, if the file is no image, is damaged, too large, or has values without a
    known meaning.
    """
    if isinstance(content, np.ndarray):
        return Image.fromarray(content if channels == 3 else content[..., 0])
    with faults():
        image = _opened(content)
        return _upright(_eight_bits(image, content, channels), image)


def part_of_picture(
    content: bytes | np.ndarray, channels: int, choose: Callable[[int, int], Box], least: int
) -> np.ndarray:
    """Returns a part of the picture in the bytes of a file, or of the given pixels: (height, width, channels) uint8,
    upright.

    choose: returns the part of a picture of this height and width. least: the pixels of height and width that the part
    keeps, if it has them, when a JPEG file is decoded at a fraction of its size. Raises UnreadableError as
    `whole_picture` does.
    """
    if isinstance(content, np.ndarray):
        return _pixels(content, choose(*content.shape[:2]))
    with faults():
        image = _opened(content)
        if channels == 3 and image.format in ("JPEG", "MPO") and image.mode == "RGB":
            picture = None
            orientation = _orientation(image)
            height, width = image.size if orientation in _LYING else image.size[::-1]
        else:
            picture = _upright(_eight_bits(image, content, channels), image)
            width, height = picture.size
    box = choose(height, width)
    with faults():
        if picture is not None:
            return _pixels(picture, box)
        stored = _stored(box, orientation, image.height, image.width)
        shrunk = max(n for n in _FRACTIONS if n == 1 or min(box.height, box.width) // n >= least)
        top, left = stored.top // shrunk, stored.left // shrunk
        bottom, right = -(-(stored.top + stored.height) // shrunk), -(-(stored.left + stored.width) // shrunk)
        part = _pixels(_decoded(content, image, shrunk), Box(top, left, bottom - top, right - left))
        if orientation not in _TO_UPRIGHT:
            return part
        return np.array(Image.fromarray(part).transpose(_TO_UPRIGHT[orientation]))


def for_a_gpu(content: bytes, choose: Callable[[int, int], Box]) -> Box | None:
    """Returns the part of a picture that `choose` returns for its height and width, if a GPU can decode the file to the
    very picture that `part_of_picture` takes parts of; else None, and nothing is chosen."""
    with contextlib.suppress(UnreadableError), faults():
        image = _opened(content)
        upright = image.format == "JPEG" and image.mode == "RGB" and _orientation(image) in (None, 1)
        if upright and not _stored_as_rgb(image):
            whole = content[-2:] == b"\xff\xd9"  # a GPU would decode the rest to grey
            size = image.size[::-1] if whole else None
            if size is not None:
                return choose(*size)
    return None


def _stored_as_rgb(image: Image.Image) -> bool:
    """Returns whether a JPEG file says that its colours are red, green and blue and not YCbCr, by Adobe's marker or by
    the names of its components. Decoders differ in which of the two they follow."""
    names = bytes(layer[0] for layer in getattr(image, "layer", []))
    return image.info.get("adobe_transform") == 0 or names == b"RGB"


def _stored(box: Box, orientation: int | None, height: int, width: int) -> Box:
    """Returns where a part of the upright picture lies in the stored one, which has this height and width."""
    top, left, rows, columns = (box.left, box.top, box.width, box.height) if orientation in _LYING else box
    if orientation in _UPSIDE_DOWN:
        top = height - top - rows
    if orientation in _MIRRORED:
        left = width - left - columns
    return Box(top, left, rows, columns)


def _pixels(picture: Image.Image | np.ndarray, box: Box) -> np.ndarray:
    """Returns a part of a picture as (height, width, channels) uint8."""
    top, left, height, width = box
    if isinstance(picture, np.ndarray):
        return picture[top : top + height, left : left + width]
    return np.array(picture.crop((left, top, left + width, top + height))).reshape(height, width, -1)


def _decoded(content: bytes, image: Image.Image, shrunk: int) -> Image.Image | np.ndarray:
    """Decodes an RGB picture of a JPEG file at a fraction of its size: ceil(height / shrunk), ceil(width / shrunk)."""
    width, height = (-(-side // shrunk) for side in image.size)
    if decode := _fast_decoder():
        # Pillow's verdict counts if it refuses: it does so for damage that Pillow overlooks
        with contextlib.suppress(ValueError):
            pixels: np.ndarray = decode(content, min_height=height, min_width=width, strict=True)
            if pixels.shape == (height, width, 3):
                return pixels
    if shrunk > 1:
        assert isinstance(image, ImageFile.ImageFile)
        image.draft("RGB", (image.width // shrunk, image.height // shrunk))
        assert image.size == (width, height), "draft chose another fraction"
    image.load()
    return image


@cache
def _fast_decoder() -> Callable[..., Any] | None:
    """Returns simplejpeg's decoder; None if it is not installed."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    decoder: Callable[..., Any] = decode_jpeg
    return decoder


def _opened(content: bytes) -> Image.Image:
    """Opens a picture, whose pixels are not decoded yet. Raises UnreadableError if Pillow would decode wrong ones."""
    try:
        image = Image.open(io.BytesIO(content), formats=formats())
    except UnidentifiedImageError:
        if kind := next((kind for place, begin, kind in _NOT_READ if content[place:].startswith(begin)), None):
            raise UnreadableError("", f"is {kind}, which is not read", remedy="convert it") from None
        raise
    if image.format == "JPEG2000" and not image.mode.startswith("I"):
        _refuse_deep_colours(content)
    if image.format == "TIFF":
        _name_planes_of_sixteen_bits(image)
    return image


def _refuse_deep_colours(content: bytes) -> None:
    """Raises UnreadableError for colours of more than 8 bits in JPEG 2000: Pillow rounds them up past the largest value
    of 8 bits, so that white becomes black."""
    bits = _deepest_component(content)
    if bits > 8:
        found = f"has colours of {bits} bits in JPEG 2000, which Pillow decodes to wrong ones"
        raise UnreadableError("", found, "8 bits, or 16 bits as PNG or TIFF", "convert it")


def _deepest_component(content: bytes) -> int:
    """Returns the most bits of a component of a JPEG 2000 image, by the marker SIZ (ISO 15444-1, A.5.1)."""
    begin = content.find(_START_AND_SIZ) + len(_START_AND_SIZ) + 2 + _SIZ_BEFORE_COMPONENTS
    count = int.from_bytes(content[begin - 2 : begin], "big")
    return max(((depth & 0x7F) + 1 for depth in content[begin : begin + 3 * count : 3]), default=0)


def _name_planes_of_sixteen_bits(image: Image.Image) -> None:
    """Lets Pillow read 16-bit colours that an uncompressed TIFF file stores plane after plane; otherwise it takes them
    for twice as many values of 8 bits."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    if image.tag_v2.get(_PLANES) == _APART and max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) == 16:
        order = {"II": "L", "MM": "B"}[image.tag_v2.prefix.decode()]  # as in Pillow's names: little, big
        image.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
            if tile.codec_name == "raw" and isinstance(tile.args, tuple) and len(str(tile.args[0])) == 1
            else tile
            for tile in image.tile
        ]


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """Turns each fault of a picture in the block into an UnreadableError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about metadata, which do not change the pixels
            yield
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError(found=_NO_IMAGE) from None
    except Image.DecompressionBombError:
        most = f"{2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million"
        raise UnreadableError("", f"has more than {most} pixels", "fewer", "make it smaller, or cut it up") from None
    except MemoryError:
        raise UnreadableError(found="needs more memory than there is") from None
    except Exception as error:  # a damaged file can make Pillow's decoders raise any exception
        raise UnreadableError(found=one_line(str(error), 200) or type(error).__name__) from error


def check_pictures(paths: Iterable[Path]) -> None:
    """Raises ConfigError, which begins with the path, for the first file that is no picture by its head. The pixels are
    not decoded. Call it before a network for them is loaded or downloaded."""
    for path in paths:
        try:
            with faults():
                _opened(content_of(str(path))).close()
        except UnreadableError as error:
            raise refused_picture(path, error) from None


def refused_picture(path: Path, error: UnreadableError) -> ConfigError:
    """Returns the error for a file that a user has named as a picture and that cannot be read as one."""
    suggestion = "" if os.path.lexists(path) else nearest_path(path)
    return ConfigError(str(path), error.found, ACCEPTED, suggestion=suggestion)


def _eight_bits(image: Image.Image, content: bytes, channels: int) -> Image.Image:
    """Returns the picture in the bytes of a file with 8 bits a pixel, in mode RGB or L, without transparency."""
    _scale_transparency(image)
    _refuse_signed_or_long(image)
    covered = _covered(image, content)
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
    if covered is not None:
        frame = plain.convert("RGB").crop(covered)
        plain = Image.new("RGB", image.size, "white")
        plain.paste(frame, covered)
    if channels == 1:
        return plain if plain.mode == "L" else plain.convert("RGB").convert("L")
    return plain if plain.mode == "RGB" else plain.convert("RGB")


def _covered(image: Image.Image, content: bytes) -> tuple[int, int, int, int] | None:
    """Returns the part of the canvas that the first frame of a GIF or a WebP covers (left, top, right, bottom), None if
    that is all. Pillow fills the rest with the first colour of the palette, or with black; viewers leave it
    transparent. The picture is not loaded yet."""
    extents: tuple[int, int, int, int] | None = None
    if image.format == "GIF" and (tiles := getattr(image, "tile", [])):
        extents = tiles[0].extents
    elif image.format == "WEBP":
        extents = _first_frame(content)
    return None if extents == (0, 0, *image.size) else extents


def _first_frame(content: bytes) -> tuple[int, int, int, int] | None:
    """Returns where the first frame of an animated WebP file lies (left, top, right, bottom), by its chunk ANMF (RFC
    9649, 2.7.1.1); None if it is not animated."""
    at = 12  # behind RIFF, the size and WEBP
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        if content[at : at + 4] == b"ANMF":
            half_left, half_top, width, height = (
                int.from_bytes(content[begin : begin + 3], "little") for begin in range(at + 8, at + 20, 3)
            )
            left, top = 2 * half_left, 2 * half_top
            return left, top, left + width + 1, top + height + 1
        at += 8 + size + size % 2
    return None


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


def _refuse_signed_or_long(image: Image.Image) -> None:
    """Raises UnreadableError for whole numbers with a sign, or of more than 16 bits."""
    tags = getattr(image, "tag_v2", {})
    signed = _SIGNED in tags.get(_SAMPLE_FORMAT, (1,))
    long = image.mode.startswith("I") and max(tags.get(_BITS_PER_SAMPLE, (16,))) > 16
    if signed or long or (image.mode == "I" and image.format not in ("PNG", "PPM", "TIFF")):
        kind = "signed" if signed and not long else "32-bit"
        raise UnreadableError("", f"has {kind} whole numbers", "8 or 16 bits without a sign", "convert it")


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    """Returns (H, W) whole numbers from 0 to 65535."""
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(_BITS_PER_SAMPLE, (16,)))
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
    """Returns a picture with transparency composed on white, in mode RGB."""
    may_be_unused = image.format in _ALPHA_OFTEN_UNUSED
    if image.mode in ("La", "RGBa"):  # colours multiplied by their alpha
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    colours = image.convert("RGBA")
    if may_be_unused and colours.getchannel("A").getextrema() == (0, 0):
        return colours.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _orientation(image: Image.Image) -> int | None:
    """Returns the EXIF tag of a picture; None if none can be read. For some formats the picture has to be loaded."""
    with contextlib.suppress(Exception):  # the metadata are damaged, but the picture is whole
        orientation = image.getexif().get(_ORIENTATION)
        return orientation if isinstance(orientation, int) else None
    return None


def _upright(plain: Image.Image, image: Image.Image) -> Image.Image:
    """Returns `plain` turned as the EXIF tag of the loaded `image` demands, or unchanged if no tag can be read."""
    method = _TO_UPRIGHT.get(_orientation(image) or 0)
    return plain if method is None else plain.transpose(method)
