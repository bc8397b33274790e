"""A guest of one sector: it says something on the serial console, perhaps writes to its disk, and powers off or stays.

It needs no kernel, and is done a second after QEMU's start, also without KVM.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

ORIGIN = 0x7C00  # where a BIOS loads it
SIZE = 4 << 20  # bytes of the disk
SECTORS_A_WRITE = 64
LAST_WRITE = SECTORS_A_WRITE * 512  # bytes before the end of the disk, where it starts with what the first sector has

Ending = Literal["power off", "at the button", "stay"]

_SET_SEGMENTS = b"\x31\xc0\x8e\xd8\x8e\xc0"  # xor ax, ax; mov ds, ax; mov es, ax
# mov dx, COM1; next: lodsb; test al, al; jz done; out dx, al; jmp next; done:
_PRINT = b"\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8"
# mov dx, PM1a_EN of q35; mov ax, PWRBTN_EN; out dx, ax; mov dx, PM1a_STS; again: in ax, dx; test ah, 1; jz again
_WAIT_FOR_BUTTON = b"\xba\x02\x06\xb8\x00\x01\xef\xba\x00\x06\xed\xf6\xc4\x01\x74\xfa"
_POWER_OFF = b"\xba\x04\x06\xb8\x00\x20\xef"  # mov dx, PM1a_CNT of q35; mov ax, SLP_EN; out dx, ax
_STAY = b"\xf4\xeb\xfd"  # again: hlt; jmp again
_ENDINGS = {"power off": _POWER_OFF + _STAY, "at the button": _WAIT_FOR_BUTTON + _POWER_OFF + _STAY, "stay": _STAY}


def write_guest(path: Path, says: str = "hello", *, ending: Ending = "power off", writes: bool = False) -> Path:
    """A raw disk with such a guest. One that writes fills its whole disk before it ends."""
    rest = (_FILL if writes else b"") + _ENDINGS[ending]
    length = len(_SET_SEGMENTS) + 3 + len(_PRINT) + len(rest)
    message = ORIGIN + length
    point_si = b"\xbe" + struct.pack("<H", message)
    code = _SET_SEGMENTS + point_si + _PRINT + rest + says.encode() + b"\r\n\0"
    assert len(code) <= 446, "where the partition table starts"
    with path.open("wb") as file:
        file.write(code.ljust(510, b"\0") + b"\x55\xaa")
        file.truncate(SIZE)
    return path


# An INT 13h disk address packet is pushed: the sector (8 bytes), segment 0 and offset ORIGIN, a count, and the packet's
# size; then each write goes SECTORS_A_WRITE further, until the end of the disk.
_FILL = bytes.fromhex(
    "31db"  # xor bx, bx: the sector / SECTORS_A_WRITE
    # next:
    "89d8"  # mov ax, bx
    "b94000"  # mov cx, SECTORS_A_WRITE
    "52"  # push dx
    "f7e1"  # mul cx
    "89d1"  # mov cx, dx: the upper half
    "5a"  # pop dx
    "6a006a00"  # push 0; push 0
    "51"  # push cx
    "50"  # push ax
    "6a00"  # push 0
    "68007c"  # push ORIGIN
    "6a40"  # push SECTORS_A_WRITE
    "6a10"  # push 16
    "89e6"  # mov si, sp
    "b280"  # mov dl, 0x80: the first disk
    "b80043"  # mov ax, 0x4300: extended write
    "cd13"  # int 0x13
    "83c410"  # add sp, 16
    "43"  # inc bx
    "81fb8000"  # cmp bx, SIZE / 512 / SECTORS_A_WRITE
)
_FILL += b"\x72" + struct.pack("b", -(len(_FILL) - 2 + 2))  # jb next
