"""Small runs from which the next size is foreseen: a DVC pipeline of its own."""
