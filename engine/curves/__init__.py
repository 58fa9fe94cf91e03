"""The curves of a run: metrics.jsonl, TensorBoard's event files, and all else that TensorBoard shows.

- `metrics.py`: writes scalars, pictures, texts and tables during a run
- `comparison.py`: names and describes what the page HPARAMS compares
- `graph.py`: builds the graph of a network for the page GRAPHS
- `event_files.py`: the format of event files, record by record
- `truncation.py`: cuts curves back to a checkpoint if a run is resumed
"""
