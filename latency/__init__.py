"""Predicts how long networks take on a device: measures, calibrates and verifies latency tables, and imports others.

- `table.py`: the latency table and its file; `config.py`: the YAML section `measure`; `device.py`: its device
- `plan.py` draws the networks and ops that are timed, `runtimes/` runs them, and `on_device/` times them in rounds:
  here, and as the program of a device kit
- `build.py` makes the table of the timings, `calibration.py` corrects its entries, `verification.py` measures its error
- `measure.py` does all of this on this machine; `kit.py` and `adb.py` do it on another device or a phone
- `fit.py` makes a table of timings of whole networks (`timings.py`), with `shrinkage.py` and a prior (`prior.py`)
- `importers/` reads tables of other projects; `interpolation.py` predicts entries that a table lacks
- `prediction.py`: what a table predicts for a network; `noise.py`: how certain a timing is
- `existing.py` protects the file of another table, and `summary.py` prints reports
"""
