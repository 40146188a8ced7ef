"""The machines: what starts a server and a worker, and keeps them going."""
