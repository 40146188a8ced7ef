"""Which builds and checkpoints hold some documents, which are clean of them, and what a build without them costs."""
