"""Two builds: what differs between them, and why each stage ran again."""
