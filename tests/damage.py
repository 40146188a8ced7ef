"""What can become of a file that was whole."""

from pathlib import Path


def flip(path: Path, offset: int = -1) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.unlink()  # it may be a link into the cache
    path.write_bytes(data)


def truncate(path: Path) -> None:
    """Take the last eight bytes away."""
    path.write_bytes(path.read_bytes()[:-8])


DAMAGES = {"flipped": flip, "missing": Path.unlink, "truncated": truncate}
