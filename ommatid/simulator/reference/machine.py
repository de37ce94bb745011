"""The reference machine: steps a program cycle by cycle.

A cycle c lies between the moments c and c + 1. At a moment bursts arrive, instructions put their tokens and
others start; in the cycle the DRAM grants bursts, then the banks grant words, then beats take place. The order
matters only where docs/isa.md states it: a burst of a store follows the reads of earlier cycles, a beat the
grants of its own. An instruction's bytes are read and written at its end, as a whole: programs are free of
races, so no other moment gives other bits. Cycles in which nothing can happen are counted, not stepped.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.program import Program
from ommatid.simulator.reference.accounts import Account, Ledger
from ommatid.simulator.reference.arithmetic import execute
from ommatid.simulator.reference.decode import ENGINES, LOAD, STORE, Decoded, decode_all, queues
from ommatid.simulator.reference.dram import Client, Dram, bytes_a_cycle
from ommatid.simulator.reference.jobs import NEVER, Beats, Job, Transfer
from ommatid.simulator.reference.memories import Memories, initial
from ommatid.simulator.reference.plan import alone_cycles, plan
from ommatid.simulator.reference.queues import Fetcher, Queue, Tokens, make_queues
from ommatid.simulator.reference.sram import Sram

MOST_UNFINISHED = 64  # instructions of a load or store queue that have left the engine


class Deadlock(RuntimeError):
    """The program waits for tokens that nobody will put."""


@dataclass(frozen=True)
class Reference:
    """What a run gives. Arrays have one entry an instruction, in moments: cycles from the run's begin."""

    cycles: int  # up to the last instruction's end
    start: np.ndarray[Any, Any]  # int64: its engine starts it
    released: np.ndarray[Any, Any]  # int64: its engine is free
    end: np.ndarray[Any, Any]  # int64: it puts its tokens
    accounts: dict[tuple[int, str], Account]  # by core and engine
    dram_bytes: int  # moved: the DMAs' whole bursts, and 128 for each instruction
    words: dict[tuple[int, int], int]  # SRAM words granted, by core and port (plan.ACTIVATIONS ...)
    memories: Memories  # their contents at the end


def simulate(
    program: Program,
    begin: int = 0,
    end: int | None = None,
    memories: Memories | None = None,
    skip: bool = True,
) -> Reference:
    """Run instructions ``begin`` to ``end`` (None: to the last) of a program that the verifier accepts.

    ``memories`` are the contents at the begin (None: the constants, else zeros); they are not changed. With
    ``skip`` off every cycle is stepped, to the same result.

    Raises:
        Deadlock: an instruction waits for a token that never comes.
    """
    held = initial(program) if memories is None else memories.copy()
    instructions = decode_all(program.instructions[begin:end])
    machine = Machine(program, instructions, held)
    while machine.unfinished:
        machine.step(skip)
    return machine.result()


class Machine:
    """The chip's state at a moment."""

    def __init__(self, program: Program, instructions: list[Decoded], memories: Memories) -> None:
        target = self.target = program.target
        self.program = instructions
        self.memories = memories
        self.unfinished = len(instructions)
        self.moment = 0
        self.srams = [Sram(target) for _ in range(target.cores)]
        self.queues = make_queues(target.cores, instructions)
        self.ledgers = [Ledger() for _ in self.queues]
        self.tokens = Tokens()
        self.fetcher = Fetcher(len(instructions), target.dram_burst_bytes)
        self.dma_queues = [q for q in self.queues if q.name[1] in (LOAD, STORE)]
        slot = max(1, target.dram_latency_cycles)
        self.clients = [Client(slot, target.dram_requests_in_flight) for _ in self.dma_queues]
        self.fetching = Client(slot, None)
        self.dram = Dram(target, [*self.clients, self.fetching])
        self.rate = bytes_a_cycle(target)
        self.jobs: dict[int, Job] = {}  # started, not ended
        self.beating: list[Beats] = []
        self.moving: list[Transfer] = []  # words or bursts left
        self.flying: deque[tuple[int, Transfer]] = deque()  # bursts granted: moment of arrival
        self.wake: list[int] = [0]  # heap of moments at which queues may go on
        self.first_waiting = 0
        self.started = [False] * (len(instructions) + 1)
        self.times = np.full((3, len(instructions)), -1, np.int64)
        self.burst_count = 0

    def step(self, skip: bool) -> None:
        """One cycle, or with ``skip`` that and those after it in which nothing happens."""
        happened = self._arrive()
        if self.wake and self.wake[0] <= self.moment:
            while self.wake and self.wake[0] <= self.moment:
                heapq.heappop(self.wake)
            self._queues()
            happened = True
            if not self.unfinished:
                return
        happened |= self._bursts()
        happened |= self._words()
        self.moment += 1
        if skip and not happened:
            self._skip()

    def result(self) -> Reference:
        """What came of it, at the end."""
        for ledger in self.ledgers:
            ledger.now(self.moment, "idle")
        accounts = {
            (q.name[0], ENGINES[q.name[1]]): ledger.account()
            for q, ledger in zip(self.queues, self.ledgers, strict=True)
        }
        assert all(account.total == self.moment for account in accounts.values()), "cycles are missing"
        moved = {(c, port): n for c, sram in enumerate(self.srams) for port, n in enumerate(sram.moved)}
        dram_bytes = self.burst_count * self.target.dram_burst_bytes + 128 * len(self.program)
        start, released, end = self.times
        return Reference(self.moment, start, released, end, accounts, dram_bytes, moved, self.memories)

    # --- a moment: arrivals, ends, starts ---------------------------------------------------------------

    def _arrive(self) -> bool:
        arrived = False
        while self.flying and self.flying[0][0] <= self.moment:
            job = self.flying.popleft()[1]
            job.arrived += 1
            arrived = True
        return arrived

    def _queues(self) -> None:
        """Instructions put their tokens and leave their engines, others start, the fetcher begins a block."""
        if self.fetcher.block and not self.fetcher.left:
            self.fetcher.finish()
        for queue in self.queues:
            self._end(queue)
            self._release(queue)
        for queue in self.queues:
            self._start(queue)
        while self.started[self.first_waiting]:
            self.first_waiting += 1
        if self.fetcher.begin(self.first_waiting):
            self.fetching.wanted = self.fetcher.left
        for queue, ledger in zip(self.queues, self.ledgers, strict=True):
            ledger.now(self.moment, self._doing(queue))

    def _end(self, queue: Queue) -> None:
        queue.without_room = []
        while queue.unfinished and queue.unfinished[0].done <= self.moment:
            job = queue.unfinished[0]
            signal = queues(job.instruction.signal)
            queue.without_room = self.tokens.full(queue.name, signal)
            if queue.without_room:
                return
            execute(job.instruction, self.target, self.memories)
            for at in self.tokens.put(queue.name, signal, self.moment):
                heapq.heappush(self.wake, at)
            queue.unfinished.popleft()
            self.times[2, job.index] = self.moment
            del self.jobs[job.index]
            self.unfinished -= 1

    def _release(self, queue: Queue) -> None:
        job = queue.job
        if job is None or job.released > self.moment:
            return
        queue.job = None
        self.times[1, job.index] = self.moment
        ledger = self.ledgers[self.queues.index(queue)]
        ledger.now(self.moment, "idle")
        held = self.moment - job.start
        if isinstance(job, Transfer):
            alone = alone_cycles(job.plan, job.is_store, self.rate, self.target)
            ledger.move(held - alone, "bandwidth")
        else:
            ledger.move(held - job.plan.startup - job.plan.beats, "bank")

    def _start(self, queue: Queue) -> None:
        if queue.job is not None or queue.exhausted or self._crowded(queue):
            return
        index = queue.instructions[queue.next]
        instruction = self.program[index]
        wait = queues(instruction.wait)
        if index >= self.fetcher.available or self.tokens.missing(queue.name, wait, self.moment):
            return
        self.tokens.take(queue.name, wait)
        made = plan(instruction, self.target, self.memories.sram[instruction.core])
        job: Beats | Transfer
        if made.is_dma:
            job = Transfer(index, instruction, made, self.moment, self.srams)
            self.moving.append(job)
            self.burst_count += made.bursts
        else:
            job = Beats(index, instruction, made, self.moment, self.srams)
            self.beating.append(job)
            heapq.heappush(self.wake, job.first)
        queue.job = self.jobs[index] = job
        queue.unfinished.append(job)
        queue.next += 1
        self.started[index] = True
        self.times[0, index] = self.moment
        heapq.heappush(self.wake, self.moment + 1)  # there may be room for a token now

    @staticmethod
    def _crowded(queue: Queue) -> bool:
        """Whether a free engine must wait for an earlier instruction's tokens to be put."""
        return len(queue.unfinished) >= (MOST_UNFINISHED if queue.name[1] in (LOAD, STORE) else 1)

    # --- a cycle: bursts, words, beats ------------------------------------------------------------------

    def _wishes(self) -> None:
        for queue, client in zip(self.dma_queues, self.clients, strict=True):
            if isinstance(queue.job, Transfer):
                client.wanted = queue.job.may_ask()

    def _bursts(self) -> bool:
        if self.dram.credit + self.dram.rate >= self.dram.burst:  # else it cannot grant
            self._wishes()
        granted = self.dram.step(self.moment)
        for number in granted:
            if number == len(self.dma_queues):
                if self.fetcher.grant():
                    heapq.heappush(self.wake, self.moment + 1)
                continue
            job = self.dma_queues[number].job
            assert isinstance(job, Transfer)
            job.granted += 1
            arrival = self.moment + 1 + self.target.dram_latency_cycles
            if not job.is_store:
                self.flying.append((arrival, job))
            if job.granted == job.plan.bursts:
                job.released = max(self.moment + 1, job.start + job.plan.port_cycles)
                heapq.heappush(self.wake, self.moment + 1)
                heapq.heappush(self.wake, job.released)
                if job.is_store:
                    job.done = arrival
                    heapq.heappush(self.wake, arrival)
        return bool(granted)

    def _words(self) -> bool:
        """Requests, grants, beats."""
        happened = False
        for transfer in self.moving:
            happened |= transfer.request(self.moment)
        for beating in self.beating:
            happened |= beating.request(self.moment)
        for sram in self.srams:
            happened |= sram.arbitrate(self.moment)
        for beating in self.beating[:]:
            happened |= beating.step(self.moment)
            if beating.released == self.moment + 1:
                heapq.heappush(self.wake, self.moment + 1)
            if beating.done < NEVER:
                heapq.heappush(self.wake, beating.done)
                self.beating.remove(beating)
        for transfer in self.moving[:]:
            if transfer.moved:
                self.moving.remove(transfer)
                if not transfer.is_store:
                    transfer.done = self.moment + 1
                    heapq.heappush(self.wake, transfer.done)
        return happened

    def _skip(self) -> None:
        """Go to the next moment at which something may happen; nothing did in the cycle before this one."""
        moments = [self.flying[0][0]] if self.flying else []
        moments += self.wake[:1]
        self._wishes()
        burst = self.dram.next_event(self.moment - 1)
        if burst is not None:
            moments.append(burst)
        if not moments:
            waiting = [queue.instructions[queue.next] for queue in self.queues if not queue.exhausted]
            raise Deadlock(f"nothing can happen after cycle {self.moment}; waiting instructions: {waiting}")
        to = max(self.moment, min(moments))
        self.dram.skip(to - self.moment)
        self.moment = to

    # --- accounts ---------------------------------------------------------------------------------------

    def _doing(self, queue: Queue) -> str:
        """What an engine does in this cycle: busy, idle or the cause that it waits for."""
        if queue.job is not None:
            return "busy"
        if queue.without_room and (queue.exhausted or self._crowded(queue)):
            return f"token {ENGINES[queue.without_room[0][1]]}"
        if queue.exhausted:
            return "idle"
        index = queue.instructions[queue.next]
        if index >= self.fetcher.available:
            return "fetch"
        if self._crowded(queue):
            return "latency"
        wait = queues(self.program[index].wait)
        causes = [self._missing(p, queue) for p in self.tokens.missing(queue.name, wait, self.moment)]
        order = ("bandwidth", "latency")
        return min(causes, key=lambda cause: order.index(cause) if cause in order else len(order))

    def _missing(self, producer: tuple[int, int], consumer: Queue) -> str:
        """Why the next token of a producer is missing: for the instruction that puts it, or what runs before."""
        queue = self.queues[producer[0] * len(ENGINES) + producer[1]]
        count = self.tokens.taken[producer, consumer.name]
        signals = queue.signals[consumer.name]
        job = self.jobs.get(signals[count]) if count < len(signals) else None
        if job is None and not self.tokens.arrivals[producer, consumer.name]:
            job = queue.job
        if isinstance(job, Transfer):
            return "bandwidth" if job.granted < job.plan.bursts else "latency"
        return f"token {ENGINES[producer[1]]}"


__all__ = ["Account", "Deadlock", "Machine", "Reference", "simulate"]
