"""Shows what runs have found to people: a folder that others load a network from.

- `runs.py`: reads the folders of a search and of a retraining
- `publication.py`: writes the folder of a published network; `portable.py`: its network as plain code;
  `entry.py`: its hubconf.py; `card.py`: its model card
"""
