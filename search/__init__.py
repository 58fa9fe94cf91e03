"""The search for an architecture. `loop.py` runs it, from the YAML file of `config.py` to the result of `result.py`.

- `limits/`: what the derived network must meet
- `learn/`: how alpha learns
- `derive/`: from alpha to one architecture
- `many/`: families of networks, and sweeps of several searches

Beside the loop: `plan.py` holds what stays the same during a search and `state.py` what changes; `update.py` is one
update of alpha; `check.py` looks at a search before it runs; `scoring.py` measures a network's accuracy with the
supernet's weights, `baseline.py` draws random networks, and `judge.py` compares the derived network with them;
`curves.py` and `picture.py` fill TensorBoard, `summary.py` the terminal; `program.py` solves integer programs and
`compilation.py` compiles the supernet.

Imports go in one direction: `many/` and the loop import the others, `learn/` imports `derive/` and `limits/`, `derive/`
imports `limits/`, and `config.py` and `program.py` import none of them.
"""
