"""How good a model will be, before it is trained: a law fitted to a ladder of small runs."""
