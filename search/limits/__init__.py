"""Limits: what the derived network must meet. `limit.py` is a limit in numbers, `resolve.py` makes one of each entry
of the YAML section `limits`, `combine.py` joins the costs of several devices, `peak.py` removes candidates that need
too much memory, and `trust.py` and `units.py` say what a latency table's numbers are worth."""
