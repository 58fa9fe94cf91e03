"""Limits: the bounds that the derived network must meet. The YAML keys of a limit are in `search/config.py`
(LimitConfig). `resolve.py` makes a limit in numbers (`limit.py`) from each entry of the section `limits`, `combine.py`
joins the costs of several devices, `peak.py` removes candidates that need too much memory, and `trust.py` and
`units.py` check whether the numbers of a latency table can be relied on, and `precision.py` whether int8 is faster."""
