"""Shows what runs have found to people: a page about them, and a folder that others load a network from.

- `runs.py`: reads the folders of a search and of a retraining
- `facts.py`: collects what a page shows; `deployed.py`: what it shows of exported files and of a job's stages
- `page.py`: writes the page, with page.html.j2 and page.css; `search_sections.py`, `network_section.py`,
  `retraining_section.py`, `deployment_sections.py`: its sections, of the blocks of `blocks.py`; `drawing.py`: its
  charts; `colours.py`: its colours
- `publication.py`: writes the folder of a published network; `portable.py`: its network as plain code;
  `entry.py`: its hubconf.py; `card.py`: its model card
"""
