"""Searches an architecture. `loop.py` runs a search, from the YAML file of `config.py` to the result of `result.py`.

- `limits/`: what the derived network must meet
- `learn/`: how alpha learns (the weights are trained on balanced paths in the warm-up, see `supernet/balance.py`)
- `derive/`: from alpha to one architecture
- `many/`: families of networks, and sweeps of several searches

Beside the loop: `plan.py` holds what stays the same during a search and `state.py` what changes; `update.py` is one
update of alpha; `given.py` reads the caller's settings and tables, and `opening.py` the folder of an earlier search;
`check.py` checks a search before it runs; `scoring.py` measures a network's accuracy with the supernet's weights,
`baseline.py` draws random networks, and `judge.py` compares the derived network with them; `curves.py` and `picture.py`
fill TensorBoard, `summary.py` the terminal; `program.py` solves integer programs and `compilation.py` compiles the
supernet; `own.py` loads the user's own functions.

Imports go in one direction: `many/` and the loop import the others, `learn/` imports `derive/` and `limits/`, and
`derive/` imports `limits/`. All of them may import `config.py`, `own.py` and `program.py`. `config.py` imports only
`learn/forms.py` and `learn/modes.py`, which import nothing else of `search/`, and `program.py` nothing.
"""
