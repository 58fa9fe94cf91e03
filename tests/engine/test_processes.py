"""A process ends with the one that has started it."""

import os
import signal
import subprocess
import sys

PROGRAM = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from engine.processes import stop_with_parent

if os.fork() == 0:
    stop_with_parent(0.02)
    try:
        print("watching", os.getpid(), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    os._exit(0)
time.sleep(60)
"""


def test_a_process_stops_as_at_ctrl_c_when_its_parent_is_killed(checkout):
    command = [sys.executable, "-c", PROGRAM, str(checkout)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[1])
        os.kill(child, 0)  # it runs
        parent.kill()
        assert parent.stdout.readline() == "stopped\n"
    assert parent.returncode == -signal.SIGKILL
