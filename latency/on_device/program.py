"""Times everything in a kit, and writes results.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import sys
import time
from typing import Any, Callable

from .errors import KitError
from .machine import cpu_name, energy_counter, usable_cores
from .manifest import read_manifest
from .models import Model, open_model, runtime_version
from .rounds import timed_rounds

RESULTS_FORMAT = "proxylessnas/device-results@1"


def run_kit(
    folder: str, provider: str = "CPUExecutionProvider", progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Times everything in a kit and returns the content of results.json. Raises KitError.

    progress: called with (done, total), in timings.
    """
    manifest, digest = read_manifest(folder)
    runtime, version = manifest["runtime"], runtime_version(manifest["runtime"])
    jobs = {job["id"]: job for job in manifest["jobs"]}
    if provider != "CPUExecutionProvider" and any(job["inside"] for job in jobs.values()):
        raise KitError(
            f"--provider {provider}",
            "only the CPU's profile tells how long a layer takes",
            remedy="export the kit with --isolated",
        )

    def open_job(name: str) -> Model:
        return open_model(folder, jobs[name], runtime, manifest["threads"], provider)

    samples, energy = timed_rounds(
        manifest["schedule"],
        open_job,
        passes=manifest["passes"],
        warmup=manifest["warmup"],
        seed=manifest["seed"],
        joules=energy_counter(),
        progress=progress,
    )
    return {
        "format": RESULTS_FORMAT,
        "manifest_sha256": digest,
        "device": {"name": cpu_name(), "cores": usable_cores(), "machine": platform.machine()},
        "runtime": {"name": runtime, "version": version},
        "provider": provider,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "samples_ms": samples,
        "energy_mj": energy,
    }


def check_writable(path: str) -> None:
    """Raises KitError if results cannot be written to `path`. Call it before the minutes of measuring."""
    if os.path.isdir(path):
        raise KitError(f"--out {path}", "is a folder", f"a file, e.g. {os.path.join(path, 'results.json')}")
    try:
        descriptor, temporary = _new_file(path)
        os.close(descriptor)
        os.remove(temporary)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file name"
        raise KitError(f"--out {path}", f"cannot be written ({reason})", remedy="choose another place") from None


def write_results(path: str, results: dict[str, Any]) -> None:
    """Writes results.json atomically. Raises KitError if it cannot be written."""
    text = json.dumps(results, allow_nan=False)
    temporary = None
    try:
        descriptor, temporary = _new_file(path)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise KitError(
            f"--out {path}", f"cannot be written ({error.strerror})", remedy="make room or choose another place"
        ) from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.remove(temporary)


def _new_file(path: str) -> tuple[int, str]:
    """Creates a file beside `path` and returns its descriptor and name. Nobody can predict the name; the permissions
    are those that the umask gives."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(8)}.tmp")
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), temporary


def _print_progress(done: int, total: int) -> None:
    """Prints how many timings are done: a counter on a terminal, a line for each tenth elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {total} timings" + ("\n" if done == total else ""))
    elif done * 10 // total > (done - 1) * 10 // total:
        sys.stderr.write(f"{done} of {total} timings\n")
    sys.stderr.flush()


def main(description: str, folder: str) -> int:
    """Runs the command line and returns its exit status. folder: where bench.py is, the kit's folder by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", default=folder, help="folder of the kit; default: where this file is")
    parser.add_argument("--out", default=None, help="default: results.json in the kit's folder")
    parser.add_argument(
        "--provider", default="CPUExecutionProvider", help="the execution provider of ONNX Runtime that runs the models"
    )
    args = parser.parse_args()
    try:
        out = args.out or os.path.join(args.kit, "results.json")
        check_writable(out)
        write_results(out, run_kit(args.kit, args.provider, _print_progress))
    except KitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print(f"{out}: copy it back and run proxyless-nas kit import")
    return 0
