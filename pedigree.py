"""The command line: a thin function for each command, which loads its room only when called."""
