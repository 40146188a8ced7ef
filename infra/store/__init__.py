"""The object store: a server for trying, and what the DVC remote holds."""
