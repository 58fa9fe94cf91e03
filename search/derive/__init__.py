"""Derives one architecture from alpha. `derivation.py` solves the integer program, and `measured.py` times its answer
on the table's own device (with `clock.py`) and tightens the bound if the network is slower than predicted."""
