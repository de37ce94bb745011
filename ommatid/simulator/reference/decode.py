"""The reference machine's own decoder, from the byte offsets in the tables of docs/isa.md."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

ENGINES = ("load", "store", "mx", "vx", "ctl")
LOAD, STORE, MX, VX, CTL = range(5)

#: opcode: (mnemonic, engine)
OPCODES = {
    1: ("load", LOAD), 2: ("fill", LOAD), 3: ("store", STORE), 4: ("conv", MX), 5: ("dwconv", MX),
    6: ("map", VX), 7: ("pool", VX), 8: ("reduce", VX), 9: ("resize", VX), 10: ("softmax", VX),
    11: ("lrn", VX), 12: ("copy", VX), 13: ("end", CTL), 14: ("send", STORE), 15: ("norm", VX),
    16: ("topk", VX),
}  # fmt: skip

#: Fields as name:byte and struct's code of the type.
FIELDS = {
    "header": "opcode:0B core:1B reserved:2H wait:4I signal:8I",
    "load": "src:12I dst:16I run:20I src_s1:24i src_s2:28i src_s3:32i dst_s1:36i dst_s2:40i dst_s3:44i "
    "n1:48H n2:50H n3:52H multicast:54B",
    "fill": "dst:12I run:16I dst_s1:20i dst_s2:24i dst_s3:28i n1:32H n2:34H n3:36H value:38B",
    "store": "src:12I dst:16I run:20I src_s1:24i src_s2:28i src_s3:32i dst_s1:36i dst_s2:40i dst_s3:44i "
    "n1:48H n2:50H n3:52H",
    "send": "src:12I dst:16I run:20I src_s1:24i src_s2:28i src_s3:32i dst_s1:36i dst_s2:40i dst_s3:44i "
    "n1:48H n2:50H n3:52H peer:54B",
    "copy": "src:12I dst:16I src_s0:20i src_s1:24i src_s2:28i src_s3:32i dst_s0:36i dst_s1:40i dst_s2:44i "
    "dst_s3:48i n0:52H n1:54H n2:56H n3:58H element_bytes:60B",
    "conv": "src:12I src_row:16i src_pixel:20i weights:24I acc:28I acc_pixel:32I in_h:36H in_w:38H "
    "pad_top:40h pad_left:42h kh:44H kw:46H stride_h:48H stride_w:50H dilation_h:52H dilation_w:54H "
    "out_h:56H out_w:58H src_zero:60h cin:62H cout:64H weights_zero:66h src_type:68B row_mode:69B "
    "weights_type:70B accumulate:71B acc_bytes:72B",
    "dwconv": "src:12I src_row:16i src_pixel:20i weights:24I weights_tap:28I acc:32I acc_pixel:36I in_h:40H "
    "in_w:42H pad_top:44h pad_left:46h kh:48H kw:50H stride_h:52H stride_w:54H dilation_h:56H "
    "dilation_w:58H out_h:60H out_w:62H src_zero:64h c:66H src_type:68B accumulate:69B acc_bytes:70B",
    "map": "src:12I src_row:16i src_pixel:20i parameters:24I table1:28I operand:32I operand_row:36i "
    "operand_pixel:40i a_factor:44f b_factor:48f addend:52f table2:56I dst:60I dst_row:64i dst_pixel:68i "
    "h:72H w:74H c:76H src_zero:78h mid_zero:80h a_zero:82h b_zero:84h r_zero:86h source:88B table1_on:89B "
    "binary:90B table2_on:91B src_type:92B mid_type:93B operand_c:94B a_type:95B b_type:96B r_type:97B "
    "acc_bytes:98B",
    "pool": "src:12I src_row:16i src_pixel:20i factor:24f dst:28I dst_row:32i dst_pixel:36i in_h:40H in_w:42H "
    "pad_top:44h pad_left:46h kh:48H kw:50H stride_h:52H stride_w:54H dilation_h:56H dilation_w:58H "
    "out_h:60H out_w:62H src_zero:64h c:66H dst_zero:68h src_type:70B kind:71B count_pad:72B dst_type:73B",
    "reduce": "src:12I src_row:16i src_pixel:20i acc:24I h:28H w:30H c:32H src_zero:34h src_type:36B "
    "accumulate:37B",
    "resize": "src:12I src_row:16i src_pixel:20i rows:24I columns:28I factor:32f dst:36I dst_row:40i "
    "dst_pixel:44i out_h:48H out_w:50H c:52H in_h:54H in_w:56H src_zero:58h dst_zero:60h taps:62B "
    "src_type:63B dst_type:64B",
    "softmax": "src:12I src_row:16i src_pixel:20i table:24I factor:28f dst:32I dst_row:36i dst_pixel:40i "
    "h:44H w:46H c:48H dst_zero:50h src_type:52B dst_type:53B",
    "lrn": "src:12I src_row:16i src_pixel:20i alpha:24f bias:28f factor:32f dst:36I dst_row:40i dst_pixel:44i "
    "h:48H w:50H c:52H size:54H src_zero:56h dst_zero:58h src_type:60B dst_type:61B",
    "norm": "src:12I src_row:16i src_pixel:20i parameters:24I epsilon:28f dst:32I dst_row:36i dst_pixel:40i "
    "h:44H w:46H c:48H src_zero:50h dst_zero:52h src_type:54B centre:55B dst_type:56B",
    "topk": "src:12I src_row:16i src_pixel:20i dst:24I dst_row:28i dst_pixel:32i index:36I index_row:40i "
    "index_pixel:44i h:48H w:50H c:52H k:54H src_type:56B order:57B last:58B values_on:59B "
    "indices_on:60B",
    "end": "",
}


@dataclass(frozen=True)
class Decoded:
    """One instruction: where it goes, its tokens, and its fields as Python numbers (``fields.src`` ...)."""

    mnemonic: str
    core: int
    engine: int
    wait: int  # masks of queues: bit 8 * core + engine
    signal: int
    fields: Any


def decode(descriptor: bytes) -> Decoded:
    """The instruction in these 128 bytes.

    Raises:
        ValueError: no instruction has this opcode.
    """
    header = _fields("header", descriptor)
    if header.opcode not in OPCODES:
        raise ValueError(f"no instruction has opcode {header.opcode}")
    mnemonic, engine = OPCODES[header.opcode]
    fields = _fields(mnemonic, descriptor)
    return Decoded(mnemonic, header.core, engine, header.wait, header.signal, fields)


def decode_all(stream: np.ndarray[Any, Any]) -> list[Decoded]:
    """The instructions of a stream of 128-byte records."""
    data = stream.tobytes()
    return [decode(data[at : at + 128]) for at in range(0, len(data), 128)]


def queues(mask: int) -> list[tuple[int, int]]:
    """The (core, engine) that a wait or signal mask names."""
    return [(bit // 8, bit % 8) for bit in range(32) if mask >> bit & 1]


def _fields(table: str, descriptor: bytes) -> SimpleNamespace:
    values = {}
    for entry in FIELDS[table].split():
        name, place = entry.split(":")
        values[name] = struct.unpack_from("<" + place[-1], descriptor, int(place[:-1]))[0]
    return SimpleNamespace(**values)
