"""Defines how alpha learns. `regression.py` fits the losses of whole networks, `gradient.py` differentiates gates (with
the loss of `objective.py` and `terms.py`), `reinforce.py` samples rewards, `projection.py` holds the limits after every
step, and `collapse.py` detects a search that goes wrong."""
