"""How long the first use takes:  python benchmarks/first_use.py

Starts Python anew several times and prints the median and the largest time of each step, in wall-clock and in CPU
seconds: importing proxyless_nas, importing torch, the first access to proxyless_cpu (the modules behind it), building
the network with fresh weights, and building it with weights from the cache (a file in the official format with random
weights, whose git blob id is put in place of the published one: everything but the download).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

ONCE = """
import dataclasses, hashlib, json, os, pathlib, sys, time

steps, last = {}, (time.perf_counter(), time.process_time())


def step(name):
    global last
    now = time.perf_counter(), time.process_time()
    steps[name] = [now[0] - last[0], now[1] - last[1]]
    last = time.perf_counter(), time.process_time()


import proxyless_nas
step("import proxyless_nas")
import torch
step("import torch")
build = proxyless_nas.proxyless_cpu
step("proxyless_nas.proxyless_cpu")
network = build(pretrained=False)
step("proxyless_cpu(pretrained=False)")

from published import networks
from published.state_names import official_state

file = pathlib.Path(os.environ["PROXYLESS_NAS_WEIGHTS"]) / "proxyless_cpu.pth"
if not file.exists():
    torch.save({"state_dict": official_state(network)}, file)
content = file.read_bytes()
blob_id = hashlib.sha1(b"blob %d\\0" % len(content) + content).hexdigest()
known = dataclasses.replace(networks.NAMED["proxyless_cpu"], blob_id=blob_id)
networks.NAMED = {**networks.NAMED, "proxyless_cpu": known}
last = time.perf_counter(), time.process_time()
build()
step("proxyless_cpu()")
print(json.dumps(steps))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    runs: list[dict[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"PROXYLESS_NAS_WEIGHTS": folder, "TORCH_HOME": folder, "OMP_NUM_THREADS": "1"}
        for _ in range(args.runs + 1):
            command = [sys.executable, "-c", ONCE]
            ended = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
            runs.append(json.loads(ended.stdout))
    runs = runs[1:]  # the first one reads everything from the disk
    print("| step | wall, median | wall, largest | CPU, median |\n|---|--:|--:|--:|")
    for name in runs[0]:
        wall, cpu = ([run[name][i] for run in runs] for i in (0, 1))
        figures = statistics.median(wall), max(wall), statistics.median(cpu)
        print(f"| `{name}` | {' | '.join(f'{seconds:.3f} s' for seconds in figures)} |")


if __name__ == "__main__":
    main()
