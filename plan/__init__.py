"""What a training will cost, before it runs: arithmetic on params.yaml or a preset."""
