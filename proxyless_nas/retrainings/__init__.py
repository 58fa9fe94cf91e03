"""Retrains several networks alike, with several seeds, and says whether one is better than others of equal latency.

`networks.py` finds the networks and draws random ones of equal predicted cost; `run.py` runs the retrainings, each in a
process of its own (`child.py`); `figures.py` has the statistics, `results.py` the table, the verdict and the files.
"""
