"""Opens an exported file in a process of its own, which imports the file's runtime and nothing of the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from engine.errors import UserError, one_line
from export import run_file
from export.formats.base import Format


class FreshProcess:
    """A file that a process of its own has loaded, to be used with `with`: calling it runs the file on images.

    threads: the CPU threads of the runtime. Raises UserError if the file cannot be loaded, or cannot be run on the
    images.
    """

    def __init__(self, format: Format, path: Path, threads: int = 1):
        self.path, self._format, self._threads = path, format, threads
        self.runtime = ""
        """The runtime's name and version."""
        self.precision = ""
        """The precision in which it computes."""
        self.metadata: Mapping[str, Any] | None = None
        """What the file says about itself."""
        self.ops: Mapping[str, int] = {}
        """How often each operation occurs in it."""
        self.tells_layers = False
        """Whether its runtime tells how long each layer takes."""
        self.types: Mapping[str, str] = {}
        """The types of its `input` and `output`, if they are not float32."""

    def __enter__(self) -> Self:
        opener = self._format.open
        function = f"{opener.__module__}:{opener.__qualname__}"
        path, threads = os.pathsep.join(filter(None, sys.path)), str(self._threads)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads}
        self._said = tempfile.TemporaryFile()  # closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "export.run_file", function, str(self.path.absolute()), threads],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment,
        )  # fmt: skip
        try:
            about = json.loads(self._answer("h", "cannot be loaded"))
        except BaseException:
            self._end()
            raise
        self.runtime, self.precision = about["runtime"], about["precision"]
        self.metadata, self.ops, self.types = about["metadata"], about["ops"], about["types"]
        self.tells_layers = about["tells_layers"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits (N, classes) of images in the file's layout."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which the answer shows
            run_file.send(self._process.stdin, b"a", run_file.packed(images))  # type: ignore[arg-type]
        return run_file.unpacked(self._answer("a", f"cannot be run on a batch of {len(images)}"))

    def times(self, passes: int) -> list[float]:
        """Returns the milliseconds of each of so many passes over the images of the last call, without the time of
        sending them."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            run_file.send(self._process.stdin, b"t", str(passes).encode())  # type: ignore[arg-type]
        times: list[float] = json.loads(self._answer("t", "cannot be timed"))
        return times

    def layer_times(self, passes: int, layers: int) -> list[list[float]]:
        """Returns the milliseconds of each layer in each of so many passes over the images of the last call. layers:
        their number, as the names in the file count them."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            run_file.send(self._process.stdin, b"l", json.dumps([passes, layers]).encode())  # type: ignore[arg-type]
        times: list[list[float]] = json.loads(self._answer("l", "cannot be profiled"))
        return times

    def _answer(self, expected: str, what: str) -> bytes:
        """Returns the content of the process's next message. Raises UserError that begins with `what` if it is an
        error, or if the process has ended."""
        assert self._process.stdout is not None
        message = run_file.receive(self._process.stdout)  # type: ignore[arg-type]
        if message is None:
            status = self._process.wait()
            self._said.seek(0)
            lines = self._said.read()[-4000:].decode(errors="replace").strip().splitlines()
            reason = f"its process ended with status {status}{': ' + lines[-1] if lines else ''}"
        elif message[0].decode() == expected:
            return message[1]
        else:
            reason = message[1].decode(errors="replace")
        raise UserError(self.path.name, f"{what} in {self._format.title}: {one_line(reason, 300)}")

    def _end(self) -> None:
        """Ends the process and closes its files."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()
