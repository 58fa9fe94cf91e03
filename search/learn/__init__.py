"""How alpha learns. `regression.py` fits the losses of whole networks, `gradient.py` differentiates gates (with the
loss of `objective.py` and `terms.py`), `reinforce.py` samples rewards, `projection.py` holds the limits after every
step, and `collapse.py` looks for signs that a search goes wrong. `own.py` loads functions of the user's own."""
