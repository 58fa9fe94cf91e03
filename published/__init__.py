"""Published networks by name, their checkpoints, fetched and checked, and their file formats."""
