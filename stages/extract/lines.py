"""Lines of a file, or of a part of it, none of which is held if it is too long."""

from typing import IO, Any, cast

from stages.extract.records import Part

READ_BYTES = 1 << 20


class Lines:
    """The lines of `stream`; None for one that is longer than `max_bytes`, which is never held whole."""

    def __init__(self, stream: Any, max_bytes: int):
        self.stream, self.max_bytes = stream, max_bytes

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> bytes | None:
        line = self.stream.readline(self.max_bytes + 1)
        if not line:
            raise StopIteration
        if len(line) <= self.max_bytes or line.endswith(b"\n"):
            return cast(bytes, line)
        while line and not line.endswith(b"\n"):
            line = self.stream.readline(READ_BYTES)
        return None


class PartOfLines:
    """The lines of `stream` that begin in a part of it."""

    def __init__(self, stream: IO[bytes], part: Part):
        self.stream, self.end = stream, part.end
        stream.seek(max(part.begin - 1, 0))
        while part.begin and stream.tell() < part.end and not stream.readline(READ_BYTES).endswith(b"\n"):
            pass
        self.within_line = False

    def readline(self, size: int) -> bytes:
        """The next line, or at most `size` bytes of it; nothing after the last line that begins in the part."""
        if not self.within_line and self.stream.tell() >= self.end:
            return b""
        line = self.stream.readline(size)
        self.within_line = not line.endswith(b"\n")
        return line
