"""Instructions in execution: beats, and DMA transfers."""

from __future__ import annotations

from collections.abc import Sequence

from ommatid.simulator.reference.decode import VX, Decoded
from ommatid.simulator.reference.plan import AHEAD, Plan
from ommatid.simulator.reference.sram import Sram, WordList

NEVER = 1 << 62


class Job:
    """An instruction that has started. Moments count cycles from the run's begin; NEVER: not yet known."""

    def __init__(self, index: int, instruction: Decoded, plan: Plan, start: int) -> None:
        self.index = index
        self.instruction = instruction
        self.plan = plan
        self.start = start
        self.released = NEVER  # its engine is free
        self.done = NEVER  # all is read and written; it may put its tokens


class Beats(Job):
    """An instruction that works in beats: ``mx``, ``vx``, ``fill``, ``send`` and ``end``."""

    def __init__(
        self, index: int, instruction: Decoded, plan: Plan, start: int, srams: Sequence[Sram]
    ) -> None:
        super().__init__(index, instruction, plan, start)
        self.first = start + plan.startup - (instruction.engine == VX)  # the earliest cycle of a beat
        self.beat = 0  # the next one
        self.asked_at = -1  # the next beat when words were requested last
        self.reads = [srams[made[0]].word_list(made) for made in plan.reads]
        self.writes = [srams[made[0]].word_list(made) for made in plan.writes]
        self.last_beat = NEVER

    def request(self, cycle: int) -> bool:
        """Ask for the reads of the next beats and the writes of those that took place; whether there are new."""
        if self.asked_at == self.beat:
            return False
        self.asked_at = self.beat
        beats = self.plan.beats
        asked = False
        for each in self.reads:
            asked |= each.request(each.needed(min(self.beat + AHEAD, beats), beats), cycle)
        for each in self.writes:
            asked |= each.request(each.made(self.beat, beats), cycle)
        return asked

    def step(self, cycle: int) -> bool:
        """One beat, if it may take place in this cycle, after its grants; whether anything happened."""
        beat, beats = self.beat, self.plan.beats
        if beat < beats:
            if cycle < self.first:
                return False
            for each in self.reads:
                if each.low < each.needed(beat + 1, beats):
                    return False
            for each in self.writes:
                if each.low < each.made(beat - AHEAD, beats):
                    return False
            self.beat += 1
            if self.beat < beats:
                return True
            self.last_beat = cycle
            if self.plan.tail:
                self.released = cycle + 1
        if any(each.low < each.count for each in self.writes):
            return self.last_beat == cycle
        alone = self.start + self.plan.startup + beats
        self.done = max(cycle + 1, alone, self.last_beat + 1 + self.plan.tail)
        if not self.plan.tail:
            self.released = self.done
        return True


class Transfer(Job):
    """A load or a store."""

    def __init__(
        self, index: int, instruction: Decoded, plan: Plan, start: int, srams: Sequence[Sram]
    ) -> None:
        super().__init__(index, instruction, plan, start)
        self.is_store = instruction.mnemonic == "store"
        self.lists: list[WordList] = [srams[made[0]].word_list(made) for made in plan.moved]
        self.granted = 0  # bursts
        self.arrived = 0

    @property
    def low(self) -> int:
        """Words before this one have been granted on all the cores that they go to."""
        return self.lists[0].low if len(self.lists) == 1 else min(each.low for each in self.lists)

    def request(self, cycle: int) -> bool:
        """Ask for the next words, of a load as far as their bursts have arrived; whether there are new."""
        asked = False
        for each in self.lists:
            if each.requested < (
                there := each.count if self.is_store else each.made(self.arrived, self.plan.bursts)
            ):
                asked |= each.request(min(self.low + AHEAD, there), cycle)
        return asked

    def may_ask(self) -> int:
        """Bursts that may be requested now."""
        if not self.is_store:
            return self.plan.bursts - self.granted
        return self.low * self.plan.bursts // self.lists[0].count - self.granted

    @property
    def moved(self) -> bool:
        """Whether all of its words have been granted."""
        return self.low == self.lists[0].count
