"""Times models on any device. A device kit holds a copy of this folder, which needs nothing else of this package.

Python 3.8, the standard library, numpy and the kit's runtime are all that it may use, and its files import each other
by relative imports. On the machine that makes tables, the same functions time every runtime, so that a table means the
same wherever it was made.

- `bench.py` is the program of a kit, where it lies beside this folder; `program.py` does its work
- `rounds.py` times jobs in rounds, and `models.py` runs model files with each runtime
- `manifest.py` reads and checks what a kit holds; `machine.py`: the name, the cores and the energy of a device
- `errors.py`: the error that the user of a kit can mend
"""
