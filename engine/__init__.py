"""What search and retrain share: configuration, data, checkpoints, curves, devices. Imports nothing else of ours."""
