"""Published networks: their checkpoints, fetched and checked."""
