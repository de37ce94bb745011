"""What an instruction will ask of its core: beats, lists of words, bursts. One function an instruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from ommatid.isa.target import Target
from ommatid.simulator.reference import words
from ommatid.simulator.reference.decode import Decoded
from ommatid.simulator.reference.words import size

#: Ports of a core's SRAM in the order in which their requests are looked at.
ACTIVATIONS, WEIGHTS, VX_READ, VX_WRITE, LOAD_PORT, STORE_PORT, PEER = range(7)
AHEAD = 16  # beats whose reads are requested; also the beats that a write may lag behind
BETWEEN_CORES = 8  # cycles of a token, and of a send's last beat, to another core

BYTES, ACC = 0, 1  # sources of map
TABLE_GIVES = (0, 1, 2, 2)  # bytes of an element looked up, by ``table1_on``; 0: there is no table

List = tuple[int, int, words.Words]  # core, port, word numbers


@dataclass(frozen=True)
class Plan:
    """The time that an instruction takes if nothing disturbs it, and what it asks for."""

    startup: int = 0
    beats: int = 0  # 0: a DMA
    reads: list[List] = field(default_factory=list)  # requested ahead of their beat, which needs them
    writes: list[List] = field(default_factory=list)  # requested in the cycle after their beat
    macs: int = 0  # of 8 by 8 bits
    bursts: int = 0  # a DMA's
    port_cycles: int = 0  # a DMA's
    moved: list[List] = field(default_factory=list)  # a DMA's: written (load) or read (store)
    tail: int = 0  # cycles from the last beat to the end

    @property
    def is_dma(self) -> bool:
        """Whether it moves bursts, not beats."""
        return self.beats == 0


def plan(i: Decoded, target: Target, sram: np.ndarray[Any, Any]) -> Plan:
    """The plan of an instruction that starts now; ``sram`` is its core's (tables of resize decide its reads)."""
    if i.mnemonic == "resize":
        return _resize(i, target, sram)
    made = PLANS[i.mnemonic](i, target)
    peak = target.mx_k_bytes * target.mx_channels * target.mx_pixels
    most = peak if i.mnemonic == "conv" else max(target.depthwise_macs_per_cycle, target.mx_k_bytes)
    assert made.macs <= made.beats * most, f"{i.mnemonic}: {made.macs} MACs in {made.beats} beats"
    return made


def requests_a_cycle(target: Target) -> list[int]:
    """Requests that each port grants a cycle."""
    wide = (
        target.port_mx_activation_bytes_per_cycle,
        target.port_mx_weight_bytes_per_cycle,
        target.port_vx_read_bytes_per_cycle,
        target.port_vx_write_bytes_per_cycle,
    )
    narrow = (target.port_load_bytes_per_cycle, target.port_store_bytes_per_cycle, 16)
    return [2 * max(1, n // 16) for n in wide] + [max(1, n // 16) for n in narrow]


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


# --- data movement ------------------------------------------------------------------------------------------


def _side(f: Any, name: str) -> tuple[int, int, words.Loops]:
    steps = [getattr(f, f"{name}_s{n}") for n in (1, 2, 3)]
    return getattr(f, name), f.run, list(zip((f.n1, f.n2, f.n3), steps, strict=True))


def _port_cycles(f: Any, name: str, port_bytes: int) -> int:
    return max(_ceil(f.run * f.n1 * f.n2 * f.n3, port_bytes), words.blocks(*_side(f, name), 16))


def _load(i: Decoded, target: Target) -> Plan:
    f = i.fields
    written = words.transfer(*_side(f, "dst"))
    cores = [c for c in range(target.cores) if (f.multicast | 1 << i.core) >> c & 1]
    return Plan(
        bursts=words.blocks(*_side(f, "src"), target.dram_burst_bytes),
        port_cycles=_port_cycles(f, "dst", target.port_load_bytes_per_cycle),
        moved=[(c, LOAD_PORT, written) for c in cores],
    )


def _fill(i: Decoded, target: Target) -> Plan:
    beats = _port_cycles(i.fields, "dst", target.port_load_bytes_per_cycle)
    return Plan(beats=beats, reads=[(i.core, LOAD_PORT, words.transfer(*_side(i.fields, "dst")))])


def _store(i: Decoded, target: Target) -> Plan:
    f = i.fields
    return Plan(
        bursts=words.blocks(*_side(f, "dst"), target.dram_burst_bytes),
        port_cycles=_port_cycles(f, "src", target.port_store_bytes_per_cycle),
        moved=[(i.core, STORE_PORT, words.transfer(*_side(f, "src")))],
    )


def _send(i: Decoded, target: Target) -> Plan:
    f = i.fields
    read, written = words.transfer(*_side(f, "src")), words.transfer(*_side(f, "dst"))
    beats = max(_ceil(f.run * f.n1 * f.n2 * f.n3, 16), len(read), len(written))
    reads, writes = [(i.core, STORE_PORT, read)], [(f.peer, PEER, written)]
    return Plan(beats=beats, reads=reads, writes=writes, tail=BETWEEN_CORES)


def _copy(i: Decoded, target: Target) -> Plan:
    f = i.fields
    counts = (f.n0, f.n1, f.n2, f.n3)
    read, written = (
        words.single_elements(
            words.addresses(
                at, list(zip(counts, [getattr(f, f"{side}_s{n}") for n in range(4)], strict=True))
            )
        )
        for side, at in (("src", f.src), ("dst", f.dst))
    )
    room = requests_a_cycle(target)
    v = target.vx_elements_per_cycle
    element = f.element_bytes
    lanes = v if f.src_s0 == f.dst_s0 == element and f.n0 * element >= 16 else max(1, v // 4)
    beats = max(
        _ceil(f.n0 * f.n1 * f.n2 * f.n3 * element, lanes),
        _ceil(len(read), room[VX_READ]),
        _ceil(len(written), room[VX_WRITE]),
    )
    return _vector(i, beats, [read], written)


# --- the MAC array ------------------------------------------------------------------------------------------


def _conv(i: Decoded, target: Target) -> Plan:
    f, k, channels = i.fields, target.mx_k_bytes, target.mx_channels
    steps = f.kh * _ceil(f.kw * f.cin, k) if f.row_mode else f.kh * f.kw * _ceil(f.cin, k)
    tiles = _ceil(f.cout, channels) * steps
    pixels = _ceil(f.out_h * f.out_w, target.mx_pixels)
    tile_bytes = k * channels * size(f.weights_type)
    weight_cycles = _ceil(tile_bytes, target.port_mx_weight_bytes_per_cycle)
    activation_cycles = _ceil(k * target.mx_pixels, target.port_mx_activation_bytes_per_cycle)
    passes = size(f.src_type) * size(f.weights_type)
    activations = words.conv_activations(f, k, channels, target.mx_pixels)
    weights = words.conv_weights(f, tiles, tile_bytes)
    return Plan(
        startup=weight_cycles + 8,
        beats=tiles * max(passes * pixels * activation_cycles, weight_cycles),
        reads=[(i.core, ACTIVATIONS, activations), (i.core, WEIGHTS, weights)],
        macs=passes * f.out_h * f.out_w * f.kh * f.kw * f.cin * f.cout,
    )


def _dwconv(i: Decoded, target: Target) -> Plan:
    f, k = i.fields, target.mx_k_bytes
    columns = max(1, target.depthwise_macs_per_cycle // k)
    span = (columns - 1) * f.stride_w + (f.kw - 1) * f.dilation_w + 1
    passes = size(f.src_type)
    row = max(passes * f.kw, _ceil(span * k * size(f.src_type), target.port_mx_activation_bytes_per_cycle))
    activations, weights = words.dwconv_lists(f, k, columns)
    return Plan(
        startup=16,
        beats=_ceil(f.c, k) * f.out_h * _ceil(f.out_w, columns) * f.kh * row,
        reads=[(i.core, ACTIVATIONS, activations), (i.core, WEIGHTS, weights)],
        macs=passes * f.out_h * f.out_w * f.kh * f.kw * f.c,
    )


# --- the vector engine --------------------------------------------------------------------------------------


def _vector(i: Decoded, beats: int, read: Sequence[words.Words], written: words.Words | None) -> Plan:
    writes = [] if written is None else [(i.core, VX_WRITE, written)]
    return Plan(startup=16, beats=beats, reads=[(i.core, VX_READ, each) for each in read], writes=writes)


def _elements(pixels: int, c: int, target: Target) -> int:
    """N: elements with the channels rounded up to whole words of the engine."""
    word = min(16, target.vx_elements_per_cycle)
    return pixels * word * _ceil(c, word)


def _beats(pixels: int, f: Any, target: Target, steps: int, *sizes: int) -> int:
    """Those of N elements of these sizes, ``steps`` times: elements of two bytes go at half rate."""
    return _ceil(max(sizes) * _elements(pixels, f.c, target) * steps, target.vx_elements_per_cycle)


def _dst(f: Any, h: int, w: int, run: int) -> words.Words:
    return words.image(f.dst, h, w, run, f.dst_row, f.dst_pixel)


def _src(f: Any) -> words.Words:
    return words.image(f.src, f.h, f.w, size(f.src_type) * f.c, f.src_row, f.src_pixel)


def _map(i: Decoded, target: Target) -> Plan:
    f = i.fields
    images, read = [], []  # lists of words; sizes of elements
    if f.source != ACC:
        images.append(_src(f))
        read.append(size(f.src_type))
    if f.binary:
        run = size(f.b_type) * (f.c if f.operand_c else 1)
        images.append(words.image(f.operand, f.h, f.w, run, f.operand_row, f.operand_pixel))
        read.append(size(f.b_type))
    after = [size(f.src_type if f.source == BYTES else f.mid_type)]  # each step, in bytes
    after.append(TABLE_GIVES[f.table1_on] or after[-1])
    after.append(size(f.r_type) if f.binary else after[-1])
    after.append(TABLE_GIVES[f.table2_on] or after[-1])
    n = _elements(f.h * f.w, f.c, target)
    beats = max(
        _beats(f.h * f.w, f, target, 1, *read, *after),
        _ceil(n * sum(read), target.port_vx_read_bytes_per_cycle),
    )
    return _vector(i, beats, images, _dst(f, f.h, f.w, after[-1] * f.c))


def _pool(i: Decoded, target: Target) -> Plan:
    f, source, result = i.fields, size(i.fields.src_type), size(i.fields.dst_type)
    beats = _beats(f.out_h * f.out_w, f, target, f.kh * f.kw, source, result)
    return _vector(i, beats, [words.window(f)], _dst(f, f.out_h, f.out_w, result * f.c))


def _reduce(i: Decoded, target: Target) -> Plan:
    f = i.fields
    return _vector(i, _beats(f.h * f.w, f, target, 1, size(f.src_type)), [_src(f)], None)


def _resize(i: Decoded, target: Target, sram: np.ndarray[Any, Any]) -> Plan:
    f, source, result = i.fields, size(i.fields.src_type), size(i.fields.dst_type)
    beats = _beats(f.out_h * f.out_w, f, target, 4 if f.taps else 1, source, result)
    rows, columns = (
        sram[at : at + 8 * n].view("<u2").reshape(n, 4) for at, n in ((f.rows, f.out_h), (f.columns, f.out_w))
    )
    return _vector(i, beats, [words.resize(f, rows, columns)], _dst(f, f.out_h, f.out_w, result * f.c))


def _passes_over_image(i: Decoded, target: Target, steps: int, reads: int) -> Plan:
    """Reads an image several times and writes one."""
    f, source, result = i.fields, size(i.fields.src_type), size(i.fields.dst_type)
    beats = _beats(f.h * f.w, f, target, steps, source, result)
    return _vector(i, beats, [np.tile(_src(f), reads)], _dst(f, f.h, f.w, result * f.c))


def _softmax(i: Decoded, target: Target) -> Plan:
    return _passes_over_image(i, target, steps=4, reads=3)


def _lrn(i: Decoded, target: Target) -> Plan:
    return _passes_over_image(i, target, steps=i.fields.size + 3, reads=1)


def _norm(i: Decoded, target: Target) -> Plan:
    return _passes_over_image(i, target, steps=3, reads=2)


def _topk(i: Decoded, target: Target) -> Plan:
    f = i.fields
    written = []
    if f.values_on:
        written.append(_dst(f, f.h, f.w, size(f.src_type) * f.k))
    if f.indices_on:
        written.append(words.image(f.index, f.h, f.w, 4 * f.k, f.index_row, f.index_pixel))
    beats = _beats(f.h * f.w, f, target, f.k, size(f.src_type))
    return _vector(i, beats, [np.tile(_src(f), f.k)], np.concatenate(written))


def _end(i: Decoded, target: Target) -> Plan:
    return Plan(beats=1)


PLANS: dict[str, Callable[[Decoded, Target], Plan]] = {
    "load": _load, "fill": _fill, "store": _store, "send": _send, "copy": _copy, "conv": _conv,
    "dwconv": _dwconv, "map": _map, "pool": _pool, "reduce": _reduce, "softmax": _softmax, "lrn": _lrn,
    "norm": _norm, "topk": _topk, "end": _end,
}  # fmt: skip


# --- a DMA alone --------------------------------------------------------------------------------------------


def alone_cycles(made: Plan, is_store: bool, rate: Fraction, target: Target) -> int:
    """Cycles for which a DMA holds its engine on an idle chip: full credit, no bank or burst of another's.

    ``rate`` is the DRAM's bandwidth in bytes a cycle.
    """
    scale = rate.denominator
    burst, step = target.dram_burst_bytes * scale, rate.numerator
    slot = max(1, target.dram_latency_cycles)
    listed = len(made.moved[0][2])
    cycle, credit = -1, burst + step  # after the grants of ``cycle``
    granted: list[int] = []
    for n in range(made.bursts):
        asks = _ceil((n + 1) * listed, made.bursts) if is_store else 0
        if n >= target.dram_requests_in_flight:
            asks = max(asks, granted[n - target.dram_requests_in_flight] + slot)
        if asks > cycle:  # nobody asks until then
            credit = min(credit + (asks - 1 - cycle) * step, burst + step)
            cycle, credit = asks, credit + step
        if credit < burst:
            waited = _ceil(burst - credit, step)
            cycle, credit = cycle + waited, credit + waited * step
        credit -= burst
        granted.append(cycle)
    return max(cycle + 1, made.port_cycles)
