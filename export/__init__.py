"""Writes trained networks as the files of runtimes, and checks that the files compute what PyTorch computes.

- `job.py`: exports one network to several formats, and writes export.json beside the files
- `program.py`: the network as one graph of tensor operations: BN folded into convolutions, dropout gone
- `layers.py`: which layer each operation belongs to, as the names in the files tell
- `formats/`: a module for each format, which writes its file and opens it again
- `int8.py`: int8 files and their check; `quantisation.py`: what all of a network share; `int8_loss.py`: what they lose;
  `calibration.py`: the images that choose their ranges; `simulation.py`: what 8 bits cost, computed in PyTorch
- `parity.py`: the check of a written file against PyTorch, without which no file is kept
- `timing.py`: how long files take; `timing_kit.py`: the same on another device; `promise.py`: beside a latency table's
  prediction; `timings.py`: the record of it, timings.json; `exported_file.py`: what export.json says of a file
- `fresh_process.py`: opens a file in a process of its own; `run_file.py`: the program of that process
- `photographs.py`: real photographs for the check, made of the two that come with scikit-learn
"""
