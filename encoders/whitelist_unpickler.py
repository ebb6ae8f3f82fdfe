"""Unpickle third-party weights files safely: only opcodes and names that a reader lists are allowed.

A pickle is a program. Its opcodes are checked before anything runs: some create objects without a call to `find_class`
(INST, NEWOBJ), read a registry (EXT1), or allocate as much memory as a damaged stream claims (BINBYTES8). Then the
unpickler resolves the few names that the reader knows to stand-ins. The source of ``pickletools`` describes the format.
"""

from __future__ import annotations

import pickle
import pickletools
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, BinaryIO

# How many bytes of argument follow an opcode. In _COUNTED: how many bytes hold the length of the argument that follows.
_ARGUMENT_BYTES = {
    **dict.fromkeys(b"()]}NabetsuQR\x85\x86\x87\x88\x89\x93\x94", 0),
    **dict.fromkeys(b"Kqh\x80", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"Jj", 4),
    **dict.fromkeys(b"G", 8),
}
_COUNTED = {**dict.fromkeys(b"UC\x8c\x8a", 1), **dict.fromkeys(b"TBX", 4)}
_GLOBAL, _LONG_BINPUT, _FRAME, _STOP = b"cr\x95."
_MAX_NAME_BYTES = 100
_CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_NAMES = {code: name for name, code in _CODES.items()}


@dataclass(frozen=True)
class Whitelist:
    """The opcodes that a reader allows, by pickletools' names; `place` is what it reads, in words that follow "in"."""

    opcodes: Iterable[str]
    place: str
    _fixed: list[int] = field(init=False, repr=False)
    _codes: frozenset[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        codes = frozenset(_CODES[name] for name in self.opcodes)
        object.__setattr__(self, "_codes", codes)
        # A list for speed: tables have millions of opcodes.
        fixed = [_ARGUMENT_BYTES.get(code, -1) if code in codes else -1 for code in range(256)]
        object.__setattr__(self, "_fixed", fixed)

    def check(self, data: mmap | bytes, position: int) -> None:
        """Check the pickle that begins at `position`; raises UnpicklingError for anything not allowed."""
        try:
            self._walk(data, position)
        except IndexError as err:
            raise pickle.UnpicklingError("it ends within its pickle") from err

    def _walk(self, data: mmap | bytes, position: int) -> None:
        fixed, long_puts = self._fixed, 0
        while (opcode := data[position]) != _STOP:
            position += 1
            if (width := fixed[opcode]) >= 0:
                position += width
            elif opcode not in self._codes:
                name = _NAMES.get(opcode, repr(bytes([opcode])))
                raise pickle.UnpicklingError(f"the opcode {name} is not allowed in {self.place}")
            elif width := _COUNTED.get(opcode, 0):
                position += width + int.from_bytes(data[position : position + width], "little")
            elif opcode == _LONG_BINPUT:
                # Memo entries are numbered in order; this opcode is for numbers above 255.
                entry = int.from_bytes(data[position : position + 4], "little")
                if entry > 256 + long_puts:
                    raise pickle.UnpicklingError(f"the memo entry {entry} is out of order")
                long_puts += 1
                position += 4
            elif opcode == _GLOBAL:
                for _ in ("module", "name"):
                    position = data.find(b"\n", position, position + _MAX_NAME_BYTES) + 1
                    if not position:
                        raise pickle.UnpicklingError("a name has no end")
            else:
                assert opcode == _FRAME
                length = int.from_bytes(data[position : position + 8], "little")
                if length > len(data) - position - 8:
                    raise pickle.UnpicklingError(f"the opcode FRAME claims {length} bytes, more than there are")
                position += 8


class WhitelistUnpickler(pickle.Unpickler):
    """Resolves only the names that a reader lists; check the stream's opcodes first."""

    def __init__(self, stream: BinaryIO, whitelist: Whitelist, encoding: str = "ASCII") -> None:
        super().__init__(stream, encoding=encoding)
        self._place = whitelist.place

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name; raises UnpicklingError for one that is not listed."""
        if (found := self.stand_in(module, name)) is None:
            raise pickle.UnpicklingError(f"the global {module}.{name} is not allowed in {self._place}")
        return found

    @abstractmethod
    def stand_in(self, module: str, name: str) -> Any:
        """Return the stand-in for a name, or None.

        A function must be a new one each time: the opcode BUILD could change the attributes of a shared one.
        """
