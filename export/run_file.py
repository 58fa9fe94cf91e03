"""Runs an exported file in its runtime; the program of the process that checks a file:

    python -m export.run_file MODULE:FUNCTION FILE THREADS

MODULE:FUNCTION opens the file on so many threads, see `Format.open`. Messages are written to standard output and read
from standard input; each is a letter, a length of 8 bytes and so many bytes:

- `h`, a JSON text, once the file is open
- `a`, an array as numpy writes it, images in and logits out
- `t`, a number of passes in, over the images that came last, and the milliseconds of each out, as a JSON text
- `l`, a JSON text of a number of passes and of layers in, and the milliseconds of each layer in each pass out
- `e`, a text that says what has failed

The process ends with its input.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from export.formats.base import Opened

HEADER = struct.Struct("<cQ")


def send(stream: BinaryIO, kind: bytes, content: bytes) -> None:
    """Writes a message."""
    stream.write(HEADER.pack(kind, len(content)))
    stream.write(content)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """Returns the kind and the content of the next message; None at the end."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, length = HEADER.unpack(header)
    content = stream.read(length)
    return None if len(content) < length else (kind, content)


def packed(array: np.ndarray) -> bytes:
    """Returns an array as bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def unpacked(content: bytes) -> np.ndarray:
    """Returns the array that `packed` has written."""
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def main(function: str, file: str, threads: str = "1") -> None:
    """Opens the file and answers each array of images with the logits."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints must not be taken for a reply
    module, _, name = function.partition(":")
    try:
        opened = getattr(importlib.import_module(module), name)(Path(file), int(threads))
        about = {
            "runtime": opened.runtime,
            "precision": opened.precision,
            "metadata": opened.metadata,
            "ops": dict(sorted(opened.ops.items())),
            "tells_layers": opened.layer_times is not None,
            "types": dict(opened.types),
        }
        send(replies, b"h", json.dumps(about).encode())
    except Exception as error:  # noqa: BLE001  # whatever a runtime raises is the answer
        send(replies, b"e", _reason(error))
        return
    images = np.empty(0)
    while (message := receive(sys.stdin.buffer)) is not None:
        try:
            if message[0] == b"t":
                send(replies, b"t", json.dumps(_times(_prepared(opened, images), int(message[1]))).encode())
                continue
            if message[0] == b"l":
                passes, layers = json.loads(message[1])
                send(replies, b"l", json.dumps(opened.layer_times(images, passes, layers)).encode())
                continue
            images = unpacked(message[1])
            send(replies, b"a", packed(np.ascontiguousarray(opened.run(images))))
        except Exception as error:  # noqa: BLE001
            send(replies, b"e", _reason(error))


def _prepared(opened: Opened, images: np.ndarray) -> Callable[[], object]:
    """Returns what runs a file on images that its runtime has got."""
    return partial(opened.run, images) if opened.prepared is None else opened.prepared(images)


def _times(run: Callable[[], object], passes: int) -> list[float]:
    """Returns the milliseconds of each pass."""
    times = []
    for _ in range(passes):
        start = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def _reason(error: Exception) -> bytes:
    """Returns the kind of an error and the first line of its text."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".encode()


if __name__ == "__main__":
    main(*sys.argv[1:])
