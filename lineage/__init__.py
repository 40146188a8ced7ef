"""Reads what a build has left behind, and explains it. Runs nothing, changes nothing."""
