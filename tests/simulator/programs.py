"""Random legal programs: all instructions, odd shapes and strides, engines at work at once, several cores.

A program is a mixture of tiles (load, compute, map, store over two buffers) and of single instructions on whatever
the memories hold. Tokens come from footprints (``weave.py``). DRAM holds noise, then tables, then what is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ommatid.isa.instructions import Memory
from ommatid.isa.program import Program
from ommatid.isa.target import load_target
from tests.isa.builder import Builder
from tests.simulator.weave import Weave

NOISE, TABLES = 1 << 16, 1 << 17  # bytes of DRAM; tables follow the noise, results the tables
CONSTANTS = NOISE + TABLES
DRAM = CONSTANTS + (1 << 17)
TABLE_ROOM = 1 << 16  # bytes of a core's SRAM
STYLES = ("tiles", "chaos", "mixed", "focus", "flood")

Fields = dict[str, Any]
Slot = tuple[int, int]  # address, bytes
SIZE = (1, 1, 2)  # bytes of an element of each type: u8, i8, i16
I16 = 2


def random_program(seed: int, target: str = "ommatid-1k") -> Program:
    """A legal program of 5 to 60 instructions and some thousand cycles; the same for the same arguments."""
    return Author(seed, target).program()


class Author:
    """Writes one program. Methods that append give the instruction's index, or -1 where it would not be legal."""

    def __init__(self, seed: int, target: str) -> None:
        self.rng = rng = np.random.default_rng([seed, len(target), ord(target[-1])])
        self.target = load_target(target)
        noise = rng.integers(0, 256, CONSTANTS, np.uint8)
        noise[: NOISE // 4] //= 16  # some of it small: accumulators that do not saturate
        self.tables, self.tables_end = noise, NOISE
        self.builder = Builder(self.target, noise.tobytes(), DRAM)
        cores = int(rng.choice([1, 2, 2, 2, self.target.cores])) if self.target.cores > 1 else 1
        self.cores = rng.permutation(self.target.cores)[:cores].tolist()
        self.length = int(rng.integers(5, 60))
        self.style = str(rng.choice(STYLES, p=[0.3, 0.2, 0.25, 0.2, 0.05]))
        extra = float(rng.choice([0, 0, 0.05, 0.4]))
        self.weave = Weave(self.builder, rng, extra, float(rng.choice([0.1, 0.9])))
        self.most = int(rng.choice([600, 2000, 6000]))  # bytes of a buffer
        self.wide = float(rng.choice([0, 0, 0.4, 0.9]))  # chance that elements are i16
        self.aligned = float(rng.choice([0.1, 0.7, 1.0]))  # chance that places are multiples of a word
        self.slots = self._slots(int(rng.integers(4, 9)), self.most)
        self.weights = self._slots(2, 2 * self.most)
        self.loaded: dict[tuple[int, str, int], Slot] = {}  # tables in SRAM by core, kind, size
        self.table_at = dict.fromkeys(self.cores, 0)
        self.turn, self.width = 0, 4  # bytes of the accumulators last written

    def program(self) -> Program:
        """The program."""
        kinds = [getattr(self, name) for name in CHAOS]
        if self.style == "focus":  # an instruction again and again, a few others at the same time
            kinds = [self.pick(kinds)] * 6 + [self.pick(kinds) for _ in range(4)]
        for _ in range(400):
            if len(self.weave) >= self.length - 1:
                break
            core = self.pick(self.cores)
            if self.style == "flood" or (self.style == "mixed" and self.chance(0.02)):
                self.flood(core)
            elif self.style == "tiles" or (self.style == "mixed" and self.chance(0.3)):
                self.tile(core)
            else:
                self.pick(kinds)(core)
        self.weave.finish()
        self.builder.constants = self.tables
        return self.builder.program()

    # --- what several instructions need ---------------------------------------------------------------------

    def pick(self, values: Any) -> Any:
        """One of the values."""
        return values[int(self.rng.integers(len(values)))]

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return bool(self.rng.random() < p)

    def upto(self, most: int, low: int = 1) -> int:
        """A number from ``low`` to ``most``, small ones more often."""
        return int(low + (most - low) * self.rng.random() ** 2 + 0.5)

    def kind(self, size: int | None = None) -> int:
        """A type of elements, of a size if that is given."""
        if size is None:
            return I16 if self.chance(self.wide) else int(self.rng.integers(2))
        return I16 if size == 2 else int(self.rng.integers(2))

    def quantization(self, **kinds: int) -> Fields:
        """The types of these operands and, of them, zero points."""
        zeros = {
            f"{name}_zero": 0 if kind == I16 else int(self.rng.integers(256)) - 128 * kind
            for name, kind in kinds.items()
        }
        return zeros | {f"{name}_type": kind for name, kind in kinds.items()}

    def types(self, *names: str) -> Fields:
        """Types (0 or 1) at random, or other flags."""
        return {name: int(self.rng.integers(2)) for name in names}

    def _slots(self, count: int, size: int) -> list[Slot]:
        """Buffers, at the same places in every core; what lies behind them is the tables'."""
        room = self.target.sram_bytes - TABLE_ROOM
        place = room // 16
        slots = []
        for _ in range(count):
            while True:
                length = size - int(self.rng.integers(0, size // 3))
                at = int(self.rng.integers(0, room - length - 32)) if place else 0
                at = at // 16 * 16 if self.chance(self.aligned) else at
                taken = [*slots, *getattr(self, "slots", [])]
                if all(at + length + 16 <= a or a + n + 16 <= at for a, n in taken):
                    slots.append((at, length))
                    break
        return slots

    def table(self, core: int, kind: str, size: int, values: Callable[[], Any]) -> int:
        """The SRAM address of a table (its constant loaded if it is not there); -1 if there is no room."""
        if (core, kind, size) in self.loaded:
            return self.loaded[core, kind, size][0]
        data = np.ascontiguousarray(values()).reshape(-1).view(np.uint8)
        begin = -(-self.tables_end // 16) * 16
        if begin + len(data) > CONSTANTS:
            return -1
        at = self.table_at[core]
        if at + len(data) > TABLE_ROOM:
            at = 0
        address = self.target.sram_bytes - TABLE_ROOM + at
        if self.weave.append("load", core, src=begin, dst=address, run=len(data)) < 0:
            return -1
        self.tables[begin : begin + len(data)] = data
        self.tables_end = begin + len(data)
        self.table_at[core] = -(-(at + len(data)) // 16) * 16
        over = [
            k
            for k, (a, n) in self.loaded.items()
            if k[0] == core and a < address + len(data) and address < a + n
        ]
        for key in over:
            del self.loaded[key]
        self.loaded[core, kind, size] = address, len(data)
        return address

    def ready(self, core: int, slot: Slot) -> bool:
        """Load a buffer if not all of it has been written; whether it has been now."""
        if self.weave.written(core, slot[0], slot[0] + slot[1]):
            return True
        return self.fill_slot(core, slot) >= 0

    def fill_slot(self, core: int, slot: Slot, **more: Any) -> int:
        """Load all of a buffer, in one run or in several."""
        address, size = slot
        run = size if self.chance(0.7) else self.pick([-(-size // 2), -(-size // 4), 256, 48])
        n = max(1, size // run)
        first = min(run, size)
        step = self.pick([first, first, first + 16, first + 7, 64]) if n > 1 else 0
        src = (
            int(self.rng.integers(0, NOISE - n * max(step, first) - 1))
            if n * max(step, first) < NOISE - 1
            else 0
        )
        src = src // 64 * 64 if self.chance(self.aligned) else src
        step = min(step, (NOISE - src - first) // max(1, n - 1)) if n > 1 else 0
        index = self.weave.append(
            "load", core, src=src, dst=address, run=first, n1=n, src_s1=step, dst_s1=first if n > 1 else 0, **more
        )  # fmt: skip
        rest = size - n * first
        if index >= 0 and rest > 0:
            index = self.weave.append("load", core, src=src, dst=address + n * first, run=rest, **more)
        return index

    def shape(self, size: int, h: int = 14, w: int = 14, c: int = 100) -> tuple[int, int, int]:
        """Rows, columns, channels of an image of about ``size`` bytes at most."""
        c = min(size, self.pick([1, 3, 5, 8, 16, 16, 17, 24, 32, 32, 48, 64, c]))
        h, w = self.upto(h), self.upto(w)
        if self.chance(0.3):
            h, w = max(h, 8), max(w, 8)
        while h * w * c > size:
            h, w, c = (
                (-(-h // 2), w, c) if h >= w and h > 1 else (h, -(-w // 2), c) if w > 1 else (h, w, c // 2)
            )
        return h, w, c

    def room(self, slot: Slot, element: int) -> Slot:
        """The part of a buffer that begins at a multiple of an element's bytes."""
        lost = -slot[0] % element
        return slot[0] + lost, slot[1] - lost

    def image(
        self, name: str, slot: Slot, h: int, w: int, c: int, dense: bool = False, element: int = 1
    ) -> Fields:
        """Room for an image in a buffer, rows and pixels apart as it fits; sometimes upside down."""
        address, size = self.room(slot, element)
        c *= element
        gap = 0 if dense else element * self.pick([0, 0, 1, 3, 16, -c % 16])
        pixel = c + gap if h * w * (c + gap) <= size else c
        row = w * pixel
        spare = (size - h * row) // h
        if not dense and spare > 0 and self.chance(0.4):
            row += self.upto(spare, 0) // element * element
        left = size - h * row
        if left > 0 and not dense:
            move = int(self.rng.integers(0, left + 1)) // element * element
            address += move // 16 * 16 if self.chance(self.aligned) else move
        if not dense and self.chance(0.1):
            address, row = address + (h - 1) * row, -row
        return {name: address, f"{name}_row": row, f"{name}_pixel": pixel}

    def other(self, *taken: Slot) -> Slot:
        """A buffer that is none of these."""
        return self.pick([slot for slot in self.slots if slot not in taken])

    def window(self, in_h: int, in_w: int, most: int, room: int) -> Fields:
        """Kernel, strides, padding and output size for an input; at most ``room`` output pixels."""
        kh, kw = (self.pick([1, 1, 2, 3, 3, 5, 7]) for _ in range(2))
        if self.chance(0.7):
            kw = kh
        kh, kw = min(kh, most), min(kw, most)
        f = {"kh": kh, "kw": kw, "in_h": in_h, "in_w": in_w}
        for side, size, k in (("h", in_h, kh), ("w", in_w, kw)):
            stride, dilation = self.pick([1, 1, 1, 2, 3]), self.pick([1, 1, 1, 2])
            pad = self.pick([0, k // 2, k // 2, self.upto(k), -1])
            out = (size + pad + self.pick([0, k // 2, pad]) - (k - 1) * dilation - 1) // stride + 1
            f |= {f"stride_{side}": stride, f"dilation_{side}": dilation, f"out_{side}": max(1, out)}
            f["pad_top" if side == "h" else "pad_left"] = pad
        while f["out_h"] * f["out_w"] > max(1, room):
            longer = "out_h" if f["out_h"] >= f["out_w"] else "out_w"
            f[longer] = -(-f[longer] // 2)
        return f

    # --- tiles ------------------------------------------------------------------------------------------------

    def tile(self, core: int) -> None:
        """Load, compute, map and store with two buffers in turn: what a compiler makes of a layer."""
        self.turn += 1
        source, result = self.slots[self.turn % 2], self.slots[2 + self.turn % 2]
        if self.fill_slot(core, source, **self.multicast(core)) < 0:
            return
        half = self.turn % 2 * (self.target.accumulator_bytes // 2)
        done = self.dwconv(core, source, half) if self.chance(0.2) else self.conv(core, source, half)
        if done < 0:
            return
        for _ in range(self.pick([0, 0, 0, 1])):  # K in parts
            self.pick([self.conv, self.conv, self.dwconv])(core, source, half)
        at, size = self.map_accumulators(core, result, half, self.width)
        if size and self.chance(0.8):
            self.weave.append("store", core, src=at, dst=self.out(size), run=size)

    def flood(self, core: int) -> None:
        """More tokens than a counter holds: many quick instructions ahead of slow ones that take them one by one."""
        slot = self.slots[0]
        ready, small = self.ready(core, self.slots[1]), []
        for k in range(20):
            if len(self.weave) >= 40 + k:
                break
            i = self.weave.append("fill", core, dst=slot[0] + k * 16, run=self.upto(16), value=k)
            small += [i] if i >= 0 else []
            if len(small) >= 14 and ready:
                self.pick([self.copy, self.reduce])(core, self.slots[1], after=(small.pop(0),))
        while small and ready and len(self.weave) < 58:
            self.reduce(core, self.slots[1], after=(small.pop(0),))

    def out(self, size: int) -> int:
        """Where in DRAM something is stored."""
        at = int(self.rng.integers(CONSTANTS, DRAM - size))
        return at // 64 * 64 if self.chance(self.aligned) else at

    def multicast(self, core: int) -> Fields:
        """At times other cores that a load goes to."""
        if len(self.cores) > 1 and self.chance(0.3):
            return {"multicast": sum(1 << c for c in self.cores if c == core or self.chance(0.6))}
        return {}

    # --- data movement ----------------------------------------------------------------------------------------

    def loops(self, size: int) -> tuple[int, list[int], list[int], int, int]:
        """A run and three loops over at most ``size`` bytes: run, counts, steps, bytes from first to last, offset."""
        run = min(size, self.pick([1, 4, 15, 16, 17, 32, 64, 100, 256, 1024, size]))
        counts, steps, span = [], [], run
        for _ in range(3):
            n = max(1, min(self.upto(12), size // span if self.chance(0.6) else 1))
            step = span if self.chance(0.4) else span + self.pick([0, 1, 8, 16, -span % 16])
            if (n - 1) * step + span > size:
                step = span
            counts.append(n)
            steps.append(step)
            span += (n - 1) * step
        order = self.rng.permutation(3).tolist() if self.chance(0.2) else [0, 1, 2]
        counts, steps = [counts[k] for k in order], [steps[k] for k in order]
        offset = 0
        for k in range(3):
            if counts[k] > 1 and self.chance(0.05):
                offset += (counts[k] - 1) * steps[k]
                steps[k] = -steps[k]
            elif counts[k] == 1 and self.chance(0.5):
                steps[k] = 0
        return run, counts, steps, span, offset

    def sides(self, src: Slot, dst: Slot) -> Fields:
        """Fields of a DMA from somewhere in ``src`` to somewhere in ``dst``."""
        run, counts, steps, span, offset = self.loops(min(src[1], dst[1]))
        fields: Fields = {"run": run} | {f"n{k + 1}": counts[k] for k in range(3)}
        fields |= {f"dst_s{k + 1}": steps[k] for k in range(3)}
        fields["dst"] = dst[0] + offset + self.upto(dst[1] - span, 0)
        most = src[1] - run
        for k in range(3):
            step = steps[k] if self.chance(0.6) else self.pick([0, run, run + 3, 16, 64])
            step = min(abs(step), most // max(1, counts[k] - 1))
            fields[f"src_s{k + 1}"] = step
            most -= step * (counts[k] - 1)
        fields["src"] = src[0] + self.upto(most, 0)
        if self.chance(self.aligned):
            fields["src"] = max(src[0], fields["src"] // 16 * 16)
        return fields

    def load(self, core: int) -> int:
        """From the noise, or from what has been stored."""
        source = (0, NOISE)
        if self.chance(0.3):
            at = int(self.rng.integers(CONSTANTS, DRAM - 512))
            if self.weave.written(0, at, at + 512, Memory.DRAM):
                source = (at, 512)
        return self.weave.append(
            "load", core, **self.sides(source, self.pick(self.slots)), **self.multicast(core)
        )

    def fill(self, core: int) -> int:
        """Somewhere in a buffer."""
        fields = self.sides((0, 4096), self.pick(self.slots))
        fields = {name: value for name, value in fields.items() if not name.startswith("src")}
        return self.weave.append("fill", core, **fields, value=int(self.rng.integers(256)))

    def store(self, core: int) -> int:
        """From a buffer to the results."""
        slot = self.pick(self.slots)
        if not self.ready(core, slot):
            return -1
        return self.weave.append("store", core, **self.sides(slot, (self.out(4096), 4096)))

    def send(self, core: int) -> int:
        """From a buffer to another core, or to another buffer."""
        slot = self.pick(self.slots)
        peer = self.pick(self.cores)
        if not self.ready(core, slot):
            return -1
        return self.weave.append("send", core, **self.sides(slot, self.other(slot)), peer=peer)

    def copy(self, core: int, slot: Slot | None = None, after: tuple[int, ...] = ()) -> int:
        """A transposition, or whole words from place to place."""
        slot = slot or self.pick(self.slots)
        if not self.ready(core, slot):
            return -1
        element = SIZE[self.kind()]
        source, to = self.room(slot, element), self.room(self.other(slot), element)
        size = min(source[1], to[1], self.pick([64, 300, 1500])) // element
        counts = [1, 1, 1, 1]
        for k in self.rng.permutation(4).tolist():
            counts[k] = max(1, min(self.pick([2, 3, 7, 16, 16, 32]), size // int(np.prod(counts))))
        fields = {f"n{k}": n for k, n in enumerate(counts)}
        for side, (at, _) in (("src", source), ("dst", to)):
            order, step = [0, 1, 2, 3] if self.chance(0.5) else self.rng.permutation(4).tolist(), element
            for k in order:
                fields[f"{side}_s{k}"], step = step, step * counts[k]
            fields[side] = at + self.upto(min(source[1], to[1]) - step, 0) // element * element
        return self.weave.append("copy", core, after, **fields, element_bytes=element)

    # --- the MAC array ----------------------------------------------------------------------------------------

    def conv(self, core: int, slot: Slot | None = None, half: int | None = None) -> int:
        """A convolution of a buffer by another's bytes."""
        slot = slot or self.pick(self.slots)
        k, lanes, kind = self.target.mx_k_bytes, self.target.mx_channels, self.kind()
        element, weights_type = (
            SIZE[kind],
            I16 if kind == I16 and self.chance(0.3) else self.pick([0, 1, 1, 1]),
        )
        h, w, c = self.shape((slot[1] - 1) // element)
        where = self.image("src", slot, h, w, c, element=element)
        room, self.width = self.target.accumulator_bytes // 2, 4 * element
        cout = self.pick([1, 7, 8, 16, 16, 20, 32, 64])
        window = self.window(h, w, 7, room // (self.width * cout + 16))
        row_mode = int(self.chance(0.3))
        if row_mode:
            where |= self.image("src", slot, h, w, c, dense=True, element=element)
            window["dilation_w"] = 1
        weights = self.pick(self.weights)
        while True:
            per_row = -(-window["kw"] * c // k) if row_mode else window["kw"] * -(-c // k)
            size = -(-cout // lanes) * window["kh"] * per_row * k * lanes * SIZE[weights_type]
            if size <= weights[1] - 16:
                break
            if cout > lanes:
                cout = -(-cout // 2)
            elif window["kh"] > 1:
                window["kh"] = 1
            elif window["kw"] > 1:
                window["kw"] = 1
            else:
                return -1
        types = self.quantization(src=kind, weights=weights_type)
        zero = types["weights_zero"]
        length = window["kw"] * c if row_mode else c
        at = -(-weights[0] // 16) * 16
        if length % k or cout % lanes:  # the places that fill up a tile must hold zero
            rows = window["kh"] * (1 if row_mode else window["kw"])
            at = self.table(
                core,
                f"weights {rows} {length} {cout} {zero} {weights_type}",
                size,
                lambda: self._weights(cout, rows, length, zero, ("u1", "i1", "<i2")[weights_type]),
            )
        if at < 0 or not (self.ready(core, slot) and self.ready(core, weights)):
            return -1
        acc, pixel = self.accumulators(window["out_h"] * window["out_w"], cout, half, self.width)
        pixels, of_pixel = window["out_h"] * window["out_w"], self.width * cout
        update = self.chance(0.5) and self._held(core, acc, pixels, pixel, of_pixel)
        return self.weave.append(
            "conv", core, **where, **window, cin=c, cout=cout, row_mode=row_mode, acc=acc, acc_pixel=pixel,
            weights=at, accumulate=int(update), acc_bytes=self.width, **types,
        )  # fmt: skip

    def _weights(self, cout: int, rows: int, length: int, zero: int, dtype: str) -> Any:
        """Random tiles of cout channels by rows of ``length`` positions, as docs/isa.md has them; ``zero`` fills up."""
        k, lanes, limits = self.target.mx_k_bytes, self.target.mx_channels, np.iinfo(dtype)
        groups, steps = -(-cout // lanes), -(-length // k)
        w = np.full((groups, lanes, rows, steps * k), zero, dtype)
        w[..., :length] = self.rng.integers(limits.min, limits.max + 1, (groups, lanes, rows, length))
        return w.reshape(groups, lanes, rows * steps, k // 4, 4).transpose(0, 2, 3, 1, 4)

    def dwconv(self, core: int, slot: Slot | None = None, half: int | None = None) -> int:
        """A depthwise convolution of a buffer by another's bytes."""
        slot = slot or self.pick(self.slots)
        kind = self.kind()
        element, self.width = SIZE[kind], 4 * SIZE[kind]
        h, w, c = self.shape((slot[1] - 1) // element)
        where = self.image("src", slot, h, w, c, element=element)
        window = self.window(h, w, 5, self.target.accumulator_bytes // 2 // (self.width * c + 16))
        weights = self.pick(self.weights)
        tap = c + self.pick([0, 0, 3, -c % 16])
        if window["kh"] * window["kw"] * tap > weights[1]:
            return -1
        if not (self.ready(core, slot) and self.ready(core, weights)):
            return -1
        pixels = window["out_h"] * window["out_w"]
        acc, pixel = self.accumulators(pixels, c, half, self.width)
        update = self.chance(0.3) and self._held(core, acc, pixels, pixel, self.width * c)
        return self.weave.append(
            "dwconv", core, **where, **window, c=c, weights=weights[0], weights_tap=tap, acc=acc, acc_pixel=pixel,
            accumulate=int(update), acc_bytes=self.width, **self.quantization(src=kind),
        )  # fmt: skip

    def accumulators(self, pixels: int, channels: int, half: int | None, width: int = 4) -> tuple[int, int]:
        """Room for accumulators of ``width`` bytes in half of them: address, bytes from pixel to pixel."""
        room, of_pixel = self.target.accumulator_bytes // 2, width * channels
        half = self.pick([0, room]) if half is None else half
        pixel = of_pixel + (self.pick([0, 0, width, 16]) if pixels * (of_pixel + 16) <= room else 0)
        left = (room - pixels * pixel) // width
        return half + (width * self.upto(left, 0) if self.chance(0.3) else 0), pixel

    def _held(self, core: int, acc: int, pixels: int, pixel: int, of_pixel: int) -> bool:
        last = acc + (pixels - 1) * pixel + of_pixel
        return self.weave.written(core, acc, last, Memory.ACC)

    # --- the vector engine ------------------------------------------------------------------------------------

    def map_accumulators(self, core: int, slot: Slot, half: int, width: int) -> Slot:
        """Requantise what half of the accumulators hold, densely; where, no bytes if none are written."""
        h, w, c = self.shape(min((slot[1] - 1) // 2, self.target.accumulator_bytes // 2 // width))
        while c and not self._held(core, half, h * w, width * c, width * c):
            h, w, c = (h // 2, w, c) if h > 1 else (h, w // 2, c) if w > 1 else (h, w, c // 2)
        if not c:
            return slot[0], 0
        mid = self.kind()
        parameters = self.table(core, f"acc{width}", c, lambda: self._requantise(c, width))
        made = self.steps(core, slot, h, w, c, mid)
        if parameters < 0 or made is None:
            return slot[0], 0
        fields, element = made
        at = self.room(slot, element)[0]
        done = self.weave.append(
            "map", core, source=1, src=half, src_row=width * c * w, src_pixel=width * c, parameters=parameters, h=h, w=w,
            c=c, dst=at, dst_row=w * c * element, dst_pixel=c * element, acc_bytes=width,
            **self.quantization(mid=mid), **fields,
        )  # fmt: skip
        return at, h * w * c * element if done >= 0 else 0

    def _requantise(self, c: int, width: int) -> Any:
        bias = self.rng.integers(-5000, 5000, c).astype("<i4")
        factor = 2.0 ** self.rng.uniform(-14, -6, c) * (
            2.0 ** self.rng.uniform(-16, 8, c) if width == 8 else 1
        )
        return np.concatenate([bias.view(np.uint8), factor.astype("<f4").view(np.uint8)])

    def _affine(self, c: int) -> Any:
        return np.concatenate([self.rng.normal(0, 20, c), self.rng.normal(0, 1, 2 * c)]).astype("<f4")

    def _table(self, element: int) -> tuple[int, int, int, Callable[[], Any]]:
        """A kind of table that reads elements of a size: its number, bytes, the size that it gives, its entries."""
        if element == 2:
            return 3, 1026, 2, lambda: self.rng.integers(-32768, 32768, 513).astype("<i2")
        if self.chance(self.wide):
            return 2, 512, 2, lambda: self.rng.integers(-32768, 32768, 256).astype("<i2")
        return 1, 256, 1, lambda: self.rng.integers(0, 256, 256).astype(np.uint8)

    def steps(
        self, core: int, dst: Slot, h: int, w: int, c: int, first: int, src: Slot | None = None
    ) -> tuple[Fields, int] | None:
        """Steps 2 to 4 of a map after elements of a type: tables, a second operand; and the size of what they give.

        None if they cannot be had.
        """
        element, fields = SIZE[first], {}
        for n in (1, 2):
            if n == 2 and self.chance(0.4):
                more = self.second(core, dst, h, w, c, element, src)
                if more is None:
                    return None
                fields |= more
                element = SIZE[more["r_type"]]
            if self.chance(0.3):
                number, size, gives, entries = self._table(element)
                at = self.table(core, f"table{number}", size, entries)
                if at < 0:
                    return None
                fields |= {f"table{n}": at, f"table{n}_on": number}
                element = gives
        return fields, element

    def second(
        self, core: int, dst: Slot, h: int, w: int, c: int, element: int, src: Slot | None
    ) -> Fields | None:
        """A second operand for elements of a size; None if there is none."""
        fields = self.quantization(a=self.kind(element), b=self.kind(), r=self.kind())
        other = self.other(dst, src) if src else self.other(dst)
        whole, size = self.chance(0.7), SIZE[fields["b_type"]]
        if h * w * (c if whole else 1) * size >= other[1] or not self.ready(core, other):
            return None
        fields |= self.image("operand", other, h, w, c if whole else 1, element=size) | {
            "operand_c": int(whole)
        }
        for step in ("operand_row", "operand_pixel"):
            if self.chance(0.1) and fields["operand_row"] > 0:
                fields[step] = 0
        numbers = self.rng.normal(0, 1, 3).astype(np.float32)
        fields |= {"binary": self.pick([1, 1, 2]), "a_factor": numbers[0], "b_factor": numbers[1]}
        fields["addend"] = numbers[2] * np.float32(50)
        if fields["binary"] == 2:
            fields["a_factor"] = numbers[0] * np.float32(0.01)
        return fields

    def map(self, core: int) -> int:
        """Element by element, from bytes or accumulators, at times in place."""
        slot = self.pick(self.slots)
        to = slot if self.chance(0.2) else self.other(slot)
        if self.chance(0.4):
            half = self.pick([0, self.target.accumulator_bytes // 2])
            return self.map_accumulators(core, to, half, 4 * SIZE[self.kind()])[1]
        kind, mid = self.kind(), self.kind()
        h, w, c = self.shape((min(slot[1], to[1]) - 1) // 2)
        fields: Fields = {"source": self.pick([0, 2])} | self.quantization(src=kind, mid=mid)
        if not self.ready(core, slot):
            return -1
        if fields["source"] == 2:
            fields["parameters"] = self.table(core, "affine", c, lambda: self._affine(c))
            if fields["parameters"] < 0:
                return -1
        made = self.steps(core, to, h, w, c, mid if fields["source"] else kind, slot)
        if made is None:
            return -1
        more, element = made
        if to == slot and element != SIZE[kind]:
            return -1
        where = self.image("src", slot, h, w, c, element=SIZE[kind])
        if to == slot:
            where |= {name.replace("src", "dst"): value for name, value in where.items()}
        else:
            where |= self.image("dst", to, h, w, c, element=element)
        return self.weave.append("map", core, **where, h=h, w=w, c=c, **fields, **more)

    def pool(self, core: int) -> int:
        """Over a window of a buffer."""
        slot = self.pick(self.slots)
        to = self.other(slot)
        kind, average = self.kind(), self.types("kind")
        out = self.kind() if average["kind"] else self.kind(SIZE[kind])
        h, w, c = self.shape((slot[1] - 1) // SIZE[kind])
        window = self.window(h, w, 3 if h * w * c > 1000 else 7, (to[1] - 1) // (c * SIZE[out]))
        if window["out_h"] * window["out_w"] * c * SIZE[out] >= to[1]:
            return -1
        if not self.ready(core, slot):
            return -1
        return self.weave.append(
            "pool", core, **self.image("src", slot, h, w, c, element=SIZE[kind]), **window, c=c,
            **self.image("dst", to, window["out_h"], window["out_w"], c, element=SIZE[out]),
            factor=np.float32(self.rng.uniform(0.3, 2)), **self.quantization(src=kind, dst=out), **average,
            **self.types("count_pad"),
        )  # fmt: skip

    def reduce(self, core: int, slot: Slot | None = None, after: tuple[int, ...] = ()) -> int:
        """Sums of a buffer."""
        slot, kind = slot or self.pick(self.slots), self.kind()
        h, w, c = self.shape((slot[1] - 1) // SIZE[kind])
        if not self.ready(core, slot):
            return -1
        acc, _ = self.accumulators(1, c, None)
        update = self.chance(0.4) and self._held(core, acc, 1, 4 * c, 4 * c)
        return self.weave.append(
            "reduce", core, after, **self.image("src", slot, h, w, c, element=SIZE[kind]), h=h, w=w, c=c, acc=acc,
            accumulate=int(update), **self.quantization(src=kind),
        )  # fmt: skip

    def resize(self, core: int) -> int:
        """Larger or smaller by tables, one tap or four."""
        slot = self.pick(self.slots)
        to = self.other(slot)
        kind, out = self.kind(), self.kind()
        in_h, in_w, c = self.shape((slot[1] - 1) // SIZE[kind])
        c = min(c, (to[1] - 1) // SIZE[out])
        out_h, out_w = self.upto(16), self.upto(16)
        while out_h * out_w * c * SIZE[out] >= to[1]:
            out_h, out_w = (out_w, -(-out_h // 2)) if out_h * out_w > 1 else (1, 1)
        taps = int(self.chance(0.6))
        rows = self.table(core, f"taps{taps} in {in_h}", out_h, lambda: self._taps(in_h, out_h, taps))
        columns = self.table(core, f"taps{taps} in {in_w}", out_w, lambda: self._taps(in_w, out_w, taps))
        if min(rows, columns) < 0 or not self.ready(core, slot):
            return -1
        return self.weave.append(
            "resize", core, **self.image("src", slot, in_h, in_w, c, element=SIZE[kind]),
            **self.image("dst", to, out_h, out_w, c, element=SIZE[out]), taps=taps,
            rows=rows, columns=columns, in_h=in_h, in_w=in_w, out_h=out_h, out_w=out_w, c=c,
            factor=np.float32(self.rng.uniform(0.3, 2) / 2**22), **self.quantization(src=kind, dst=out),
        )  # fmt: skip

    def _taps(self, size: int, out: int, four: int) -> Any:
        table = self.rng.integers(0, size, (out, 4))
        table[:, 2] = self.rng.choice([0, 1, 700, 1024, 2048], out) if four else 2048
        table[:, 3] = 2048 - table[:, 2]
        return table.astype("<u2")

    def softmax(self, core: int) -> int:
        """Over the channels of a buffer."""
        slot = self.pick(self.slots)
        to = self.other(slot)
        kind, out = self.kind(), self.kind()
        h, w, c = self.shape((min(slot[1], to[1], 2000) - 1) // 2)
        scale, size = float(self.rng.uniform(0.01, 0.2)), 1024 * SIZE[kind]
        steps = np.arange(256)
        if kind == I16:
            steps, scale = np.concatenate([256 * steps, steps]), scale / 256
        table = self.table(core, "exp", size, lambda: (2.0**31 * np.exp(-scale * steps)).astype("<u4"))
        if table < 0 or not self.ready(core, slot):
            return -1
        return self.weave.append(
            "softmax", core, **self.image("src", slot, h, w, c, element=SIZE[kind]),
            **self.image("dst", to, h, w, c, element=SIZE[out]), h=h, w=w, c=c, table=table,
            factor=np.float32(256 ** SIZE[out] // SIZE[out]), src_type=kind, **self.quantization(dst=out),
        )  # fmt: skip

    def lrn(self, core: int) -> int:
        """Across the channels of a buffer."""
        slot = self.pick(self.slots)
        to = self.other(slot)
        kind, out = self.kind(), self.kind()
        h, w, c = self.shape((min(slot[1], to[1], 2000) - 1) // 2)
        if not self.ready(core, slot):
            return -1
        alpha, bias, factor = (
            np.float32(self.rng.uniform(*limits)) for limits in ((0, 0.1), (0.5, 2), (0.5, 2))
        )
        return self.weave.append(
            "lrn", core, **self.image("src", slot, h, w, c, element=SIZE[kind]),
            **self.image("dst", to, h, w, c, element=SIZE[out]), h=h, w=w, c=c,
            size=self.pick([1, 2, 3, 5, 7]), alpha=alpha, bias=bias, factor=factor,
            **self.quantization(src=kind, dst=out),
        )  # fmt: skip

    def channels(self, size: int) -> tuple[int, int, int]:
        """A shape of at most ``size`` bytes for what goes over channels: at times more of them than elsewhere."""
        h, w, c = self.shape(size)
        if self.chance(0.2):
            c = self.upto(min(size, 1000), c)
            h, w = 1, min(w, size // c)
        return h, w, c

    def norm(self, core: int) -> int:
        """Over the channels of a buffer."""
        slot = self.pick(self.slots)
        to = self.other(slot)
        kind, out = self.kind(), self.kind()
        h, w, c = self.channels((min(slot[1], to[1], 2000) - 1) // 2)
        parameters = self.table(core, "norm", c, lambda: self.rng.normal(0, 40, 2 * c).astype("<f4"))
        if parameters < 0 or not self.ready(core, slot):
            return -1
        return self.weave.append(
            "norm", core, **self.image("src", slot, h, w, c, element=SIZE[kind]),
            **self.image("dst", to, h, w, c, element=SIZE[out]), h=h, w=w, c=c,
            parameters=parameters, epsilon=np.float32(10 ** self.rng.uniform(-6, 6)), **self.types("centre"),
            **self.quantization(src=kind, dst=out),
        )  # fmt: skip

    def topk(self, core: int) -> int:
        """Of the channels of a buffer."""
        slot = self.pick(self.slots)
        to = self.other(slot)
        other = self.other(slot, to)
        kind = self.kind()
        h, w, c = self.channels((min(slot[1], 2000) - 1) // SIZE[kind])
        k = min(c, self.pick([1, 1, 2, 5, 17]), (to[1] - 1) // (h * w * SIZE[kind]), other[1] // (4 * h * w))
        if k == 0 or not self.ready(core, slot):
            return -1
        on = self.pick([(1, 0), (0, 1), (1, 1)])
        return self.weave.append(
            "topk", core, **self.image("src", slot, h, w, c, element=SIZE[kind]), h=h, w=w, c=c, k=k, values_on=on[0],
            **self.image("dst", to, h, w, k, element=SIZE[kind]), **self.image("index", other, h, w, 4 * k),
            indices_on=on[1], src_type=kind, **self.types("order", "last"),
        )  # fmt: skip


#: Methods of Author that append a single instruction, those that matter most several times.
CHAOS = (
    "load", "load", "fill", "store", "store", "send", "copy", "conv", "conv", "conv", "dwconv", "map", "map", "map",
    "pool", "pool", "reduce", "resize", "resize", "softmax", "softmax", "lrn", "copy", "send",
    "norm", "norm", "topk", "topk",
)  # fmt: skip
