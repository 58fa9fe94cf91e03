"""Notices whether torch would hang in this process, which a fork has made.

A process that is forked after torch has computed with several threads has a copy of torch's pool of threads, but not
the threads: the next computation with several of them waits for them for ever (libgomp).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import warnings
from typing import Any

from engine.errors import UserError

PATIENCE_S = 20.0
"""How long a computation of milliseconds may take before it is taken to hang."""
_unchecked = False


def _forked() -> None:
    global _unchecked
    _unchecked = True


os.register_at_fork(after_in_child=_forked)


def refuse_to_hang() -> None:
    """Raises a UserError if this process was forked and torch would hang in it. A process that was not forked since
    this module was imported is not looked at.

    Another fork computes with torch's threads and is waited for: nothing else tells whether the pool was in use.
    """
    global _unchecked
    torch = sys.modules.get("torch")
    if not _unchecked or torch is None:
        return
    if not _computes(torch):
        raise UserError(
            "this process", "was forked from one in which torch had computed with several threads, so torch would hang",
            remedy="start it by multiprocessing's spawn, or call torch.set_num_threads(1) in it first",
        )  # fmt: skip
    _unchecked = False


def _computes(torch: Any) -> bool:
    """Returns whether a fork of this process ends a computation with torch's threads."""
    with warnings.catch_warnings():
        # of a fork beside other threads; this one is killed if it hangs
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            torch.ones(1 << 18).exp()  # large enough for several threads
        finally:
            os._exit(0)
    until = time.monotonic() + PATIENCE_S
    with contextlib.suppress(ChildProcessError):  # the caller collects the ends of all processes
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return False
            time.sleep(0.005)
    return True
