"""The folder of a run, from which it is resumed.

- `folder.py`: opens it: a new run, or a resume with the same config and inputs
- `lock.py`: lets one process at a time write there
- `inputs.py`: records the checksums of the data and files that a run depends on
- `checkpoints.py`: writes and reads checkpoints
- `stages.py`: runs a job of several stages, and repeats those that a change concerns
- `states.py`: checks whether the content of a checkpoint fits a network or an optimizer
"""
