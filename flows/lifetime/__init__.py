"""What lives and dies with what: a build, its processes, its server; and what a dead one left is cleared away."""
