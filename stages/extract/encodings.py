"""Bytes as text: UTF-8, or UTF-16 that begins with its mark."""

import codecs
import io
from typing import IO, cast

from stages.extract.records import Rejected

UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
MAX_NUL_SHARE = 0.1  # UTF-16 has half of Latin text's bytes NUL; UTF-8 has none of any text's


def decoded(content: bytes) -> str:
    """The text that `content` is.

    Raises:
        Rejected: if it is none.
    """
    codec = UTF_16.get(content[:2])
    try:
        text = content[2:].decode(codec) if codec else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected("invalid_utf16" if codec else "invalid_utf8", f"byte {error.start}: {error.reason}") from None
    if (nuls := content.count(0)) > MAX_NUL_SHARE * len(content) and not codec:
        raise Rejected("no_text", f"{nuls} of {len(content)} bytes are NUL: UTF-16 without its mark, or no text at all")
    return text


def as_utf8(stream: IO[bytes]) -> IO[bytes]:
    """`stream`, and if it begins with the mark of UTF-16, what it is in UTF-8."""
    peeked = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, stream))
    codec = UTF_16.get(peeked.peek(2)[:2])
    if codec is None:
        return peeked
    peeked.read(2)
    return io.BufferedReader(cast(io.RawIOBase, _Recoded(peeked, codec)), 1 << 17)


class _Recoded(io.RawIOBase):
    """Text in another encoding as UTF-8. Half a pair stays one, which no UTF-8 is: it costs its line, no other."""

    def __init__(self, stream: IO[bytes], codec: str):
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder(codec)("surrogatepass")
        self.held = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Fill `buffer` as far as the text goes."""
        while not self.held:
            block = self.stream.read(1 << 16)
            try:
                text = self.decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise EOFError(f"half a character at the end of UTF-16: {error.reason}") from None
            if not block and not text:
                return 0
            self.held = text.encode("utf-8", "surrogatepass")
        size = min(len(buffer), len(self.held))
        buffer[:size] = self.held[:size]
        self.held = self.held[size:]
        return size
