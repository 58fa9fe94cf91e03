"""Holds published networks by name, their checkpoints, and the file formats of other projects.

- `networks.py`: the networks by name; `designs.py`: a network from its name or any file
- `download.py` fetches a checkpoint and checks it; `weights.py` loads it, by the names of `state_names.py`
- `trained.py`: networks with trained weights; `preprocessing.py`: how their images are prepared
- `net_config/`: net.config, the JSON of networks; `int8.py`: trained int8 networks; `records.py` reads both strictly
"""
