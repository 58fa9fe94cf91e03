"""Limits: what the derived network must meet. `limit.py` resolves the YAML section `limits` into bounds and cost
matrices, `combine.py` joins the costs of several devices, `peak.py` removes candidates that need too much memory, and
`trust.py` and `units.py` say what a latency table's numbers are worth."""
