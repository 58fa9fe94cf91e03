"""Makes many networks or runs many searches. `family.py` derives networks for several bounds from one search,
`sweep.py` runs several configs and seeds over the devices of `queue.py`, and `pareto.py` draws accuracy over cost."""
