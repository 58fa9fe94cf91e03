"""Decodes the JPEG files of a training batch on a GPU (`data.decode: cuda`), with TorchCodec, an optional package.

A process that reads files sends the bytes of those that the GPU can decode, and decodes the others itself: other
formats, grey and CMYK pictures, colours stored as RGB, those that an EXIF tag turns, and files without the marker of an
end. nvJPEG decodes whole pictures; the part of each that the training shows is cut out and resized on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data.images import Encoded, Item, RawBatch
from engine.errors import ConfigError

KEY = "data.decode"
Decode = Callable[[list[Tensor]], list[Tensor]]
"""Decodes files (bytes,) uint8 on the CPU to pictures (3, H, W) uint8 on a device. Raises RuntimeError if
one is bad."""


def check_decoder(device: torch.device) -> None:
    """Raises ConfigError unless JPEG files can be decoded on the device."""
    if device.type != "cuda":
        found = f"got 'cuda', but the training is on device '{device.type}'"
        raise ConfigError(KEY, found, remedy="remove it, or set run.device: cuda")
    decoder()


@cache
def decoder() -> Callable[..., Any]:
    """Returns TorchCodec's function. Raises ConfigError if it is not installed, or too old for images."""
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError) as error:
        found = f"TorchCodec 0.16 or newer cannot be imported ({str(error).splitlines()[0]})"
        raise ConfigError(KEY, found, remedy='pip install "proxylessnas[torchcodec]", or remove the key') from None
    found_there: Callable[..., Any] = decode_jpeg
    return found_there


def encoded(files: Sequence[tuple[Item, bytes, tuple[int, int, int, int], bool]]) -> Encoded | None:
    """Returns the files of a batch that a GPU decodes: for each its item, content, the part that is shown (top, left,
    height and width) and whether it is mirrored. None if there are none."""
    if not files:
        return None
    items, contents, boxes, mirrored = zip(*files, strict=True)
    ends = torch.tensor([len(content) for content in contents]).cumsum(0)
    content = torch.frombuffer(bytearray(b"".join(contents)), dtype=torch.uint8)
    return Encoded(content, ends, torch.tensor(boxes), torch.tensor(mirrored), tuple(items))


def decoded(
    raw: RawBatch, size: int, device: torch.device, read: Callable[[list[Item]], RawBatch], decode: Decode | None = None
) -> RawBatch:
    """Returns the batch with all its pixels (N, 3, S, S) uint8 on the device, S being `size`.

    read: reads items on the CPU, for a file that cannot be decoded here. decode: None is TorchCodec's.
    """
    if raw.encoded is None:
        return raw
    call = decode or (lambda files: decoder()(files, mode="RGB", device=device))
    content, ends, boxes, mirrored, items = raw.encoded
    files = list(content.tensor_split(ends[:-1]))
    out = torch.empty((len(files), 3, size, size), device=device)
    bad = []
    for i, (picture, box) in enumerate(zip(_pictures(files, call), boxes.tolist(), strict=True)):
        top, left, height, width = box
        if picture is None or picture.shape[1] < top + height or picture.shape[2] < left + width:
            bad.append(i)
            continue
        part = picture[None, :, top : top + height, left : left + width].float()
        out[i] = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)[0]
    flags = mirrored.to(device, non_blocking=True).view(-1, 1, 1, 1)
    out = torch.where(flags, out.flip(-1), out).round_().clamp_(0, 255)
    pixels = torch.empty((len(raw.labels), 3, size, size), dtype=torch.uint8, device=device)
    at = raw.encoded_at
    assert at is not None
    rest = torch.ones(len(raw.labels), dtype=torch.bool).index_fill_(0, at, 0).nonzero()[:, 0]
    pixels[at.to(device, non_blocking=True)] = out.to(torch.uint8)
    if len(rest):
        pixels[rest.to(device, non_blocking=True)] = raw.pixels.to(device, non_blocking=True)
    corrupt = dict(raw.corrupt)
    for i in bad:
        one = read([items[i]])
        pixels[int(at[i])] = one.pixels[0].to(device)
        corrupt |= one.corrupt
    return raw._replace(pixels=pixels, encoded=None, encoded_at=None, corrupt=dict(sorted(corrupt.items())))


def _pictures(files: list[Tensor], decode: Decode) -> list[Tensor | None]:
    """Decodes all files at once, or if one of them is bad, one by one; None in place of a bad one."""
    try:
        return list(decode(files))
    except RuntimeError:
        pictures: list[Tensor | None] = []
        for file in files:
            try:
                pictures += decode([file])
            except RuntimeError:
                pictures.append(None)
        return pictures
