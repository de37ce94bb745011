"""The queues of all cores, the tokens between them, and the fetcher that fills them."""

from __future__ import annotations

from collections import defaultdict, deque

from ommatid.simulator.reference.decode import ENGINES, Decoded, queues
from ommatid.simulator.reference.jobs import Job
from ommatid.simulator.reference.plan import BETWEEN_CORES

MOST_TOKENS = 15
BLOCK = 32  # instructions fetched at once
WINDOW = 256  # instructions, from the first that has not started, within which a block must end

Name = tuple[int, int]  # core, engine


class Tokens:
    """One counter for each pair of queues; tokens on their way to another core count, but may not be taken."""

    def __init__(self) -> None:
        self.arrivals: defaultdict[tuple[Name, Name], deque[int]] = defaultdict(deque)
        self.taken: defaultdict[tuple[Name, Name], int] = defaultdict(int)  # ever

    def full(self, producer: Name, signal: list[Name]) -> list[Name]:
        """The consumers that have no room for a token."""
        return [c for c in signal if len(self.arrivals[producer, c]) >= MOST_TOKENS]

    def put(self, producer: Name, signal: list[Name], moment: int) -> list[int]:
        """One token for each consumer; the moments at which they may be taken."""
        moments = [moment + (BETWEEN_CORES if producer[0] != consumer[0] else 0) for consumer in signal]
        for consumer, at in zip(signal, moments, strict=True):
            self.arrivals[producer, consumer].append(at)
            assert len(self.arrivals[producer, consumer]) <= MOST_TOKENS, "more than 15 tokens"
        return moments

    def missing(self, consumer: Name, wait: list[Name], moment: int) -> list[Name]:
        """The producers whose token is not there."""
        there = (self.arrivals[producer, consumer] for producer in wait)
        return [p for p, waiting in zip(wait, there, strict=True) if not waiting or waiting[0] > moment]

    def take(self, consumer: Name, wait: list[Name]) -> None:
        """One token of each producer."""
        for producer in wait:
            self.arrivals[producer, consumer].popleft()
            self.taken[producer, consumer] += 1


class Queue:
    """One engine and its instructions in order."""

    def __init__(self, name: Name) -> None:
        self.name = name
        self.instructions: list[int] = []
        self.next = 0  # the first that has not started
        self.job: Job | None = None  # what holds the engine
        self.unfinished: deque[Job] = deque()  # started, tokens not yet put, in order
        self.without_room: list[Name] = []  # consumers that keep the first unfinished one's tokens waiting
        self.signals: defaultdict[Name, list[int]] = defaultdict(
            list
        )  # by consumer: who signals it, in order

    @property
    def exhausted(self) -> bool:
        """Whether all of its instructions have started."""
        return self.next == len(self.instructions)


def make_queues(cores: int, program: list[Decoded]) -> list[Queue]:
    """The queues with their instructions, by core and engine."""
    made = [Queue((core, engine)) for core in range(cores) for engine in range(len(ENGINES))]
    for index, instruction in enumerate(program):
        queue = made[instruction.core * len(ENGINES) + instruction.engine]
        queue.instructions.append(index)
        for consumer in queues(instruction.signal):
            queue.signals[consumer].append(index)
    return made


class Fetcher:
    """Reads the program in blocks."""

    def __init__(self, instructions: int, burst: int) -> None:
        self.instructions = instructions
        self.burst = burst
        self.available = 0  # instructions that have been fetched
        self.block = 0  # instructions of the block that is being fetched
        self.left = 0  # its bursts to be granted

    def begin(self, first_waiting: int) -> bool:
        """Start the next block if there is one and it may; whether it did.

        ``first_waiting`` is the first instruction of the program that has not started.
        """
        block = min(BLOCK, self.instructions - self.available)
        if self.block or not block or self.available + block > first_waiting + WINDOW:
            return False
        self.block, self.left = block, -(-block * 128 // self.burst)
        return True

    def grant(self) -> bool:
        """A burst moves; whether it was the block's last."""
        self.left -= 1
        return self.left == 0

    def finish(self) -> None:
        """The block's instructions are available."""
        self.available += self.block
        self.block = 0
