"""Compares networks on devices: how large, how accurate and how fast each is, and which is best on which device.

- `networks.py` finds what a text or an object names: a published network, a file, a run, one of torchvision
- `accuracy.py` gathers the accuracies: published ones, those of runs and files, and those measured now
- `devices.py` gathers the latencies: published, predicted by tables, and measured in the runtimes of this machine
- `judge.py` finds the fastest and the Pareto-efficient networks of each device
- `table.py` holds the result and writes it as text, Markdown, CSV and JSON; `picture.py` draws it
- `compare.py` does all of this
"""
