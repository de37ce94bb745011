"""A core's SRAM: requests of words over ports, and the banks that grant them."""

from __future__ import annotations

from ommatid.isa.target import Target
from ommatid.simulator.reference import words
from ommatid.simulator.reference.plan import List, requests_a_cycle

STARVED = 256  # cycles after which a request goes before all ports' others


class WordList:
    """A list of words that one instruction moves over one port; word n of N is due by share of the beats."""

    __slots__ = ("banks", "count", "granted", "low", "pending", "requested")

    def __init__(self, banks: list[int], pending: list[Request]) -> None:
        self.banks = banks
        self.count = len(banks)
        self.pending = pending  # the port's
        self.requested = 0
        self.granted = bytearray(len(banks) + 1)  # one more, never granted: where ``low`` stops
        self.low = 0  # all before it are granted

    def needed(self, parts: int, of: int) -> int:
        """Words that are due with the first ``parts`` of ``of`` beats: word n with beat floor(n * of / count)."""
        return min(self.count, -(-parts * self.count // of))

    def made(self, parts: int, of: int) -> int:
        """Words that ``parts`` of ``of`` beats or bursts make: word n needs ceil((n + 1) * of / count) of them."""
        return parts * self.count // of

    def request(self, upto: int, cycle: int) -> bool:
        """Request all words before ``upto`` that have not been yet; whether there were any."""
        if upto <= self.requested:
            return False
        for n in range(self.requested, upto):
            self.pending.append((cycle, self.banks[n], n, self))
        self.requested = upto
        return True

    def grant(self, n: int) -> None:
        """The word has been read or written."""
        assert not self.granted[n], "a word is granted once"
        self.granted[n] = 1
        while self.granted[self.low]:
            self.low += 1


Request = tuple[int, int, int, WordList]  # cycle in which it was made, bank, word of the list, list


class Sram:
    """The banks of one core and their ports' requests."""

    def __init__(self, target: Target) -> None:
        self.banks = target.sram_banks
        self.room = requests_a_cycle(target)
        self.pending: list[list[Request]] = [[] for _ in self.room]  # by port, oldest first
        self.moved = [0] * len(self.room)  # words granted, by port

    def word_list(self, source: List) -> WordList:
        """The requests to be of an instruction's list, which names this core."""
        _, port, numbers = source
        return WordList(words.banks(numbers, self.banks), self.pending[port])

    def arbitrate(self, cycle: int) -> bool:
        """Grant one cycle's requests; whether there were any."""
        ports = [port for port, pending in enumerate(self.pending) if pending]
        if not ports:
            return False
        room = self.room[:]
        used = 0  # mask of banks
        if min([self.pending[port][0][0] for port in ports]) <= cycle - STARVED:
            used = self._grant_starved(cycle - STARVED, room)
        for port in ports:
            if room[port]:
                used = self._grant_oldest(port, used, room)
        grants = 0
        for port in ports:
            assert room[port] >= 0, "a port granted more than it has room for"
            grants += self.room[port] - room[port]
            self.moved[port] += self.room[port] - room[port]
        assert used.bit_count() == grants, "a bank granted two accesses"
        return True

    def _grant_starved(self, made: int, room: list[int]) -> int:
        """Grant what was requested in cycle ``made`` or before, oldest first; the mask of the banks used."""
        starved = [
            (request[0], port, at, request)
            for port, pending in enumerate(self.pending)
            for at, request in enumerate(pending)
            if request[0] <= made
        ]
        used = 0
        for _, port, _, request in sorted(starved, key=lambda s: s[:3]):
            if room[port] and not used >> request[1] & 1:
                used |= 1 << request[1]
                room[port] -= 1
                self.pending[port].remove(request)
                request[3].grant(request[2])
        return used

    def _grant_oldest(self, port: int, used: int, room: list[int]) -> int:
        """Grant a port's requests in order, as far as banks are free and there is room; the banks used."""
        pending, left = self.pending[port], room[port]
        waiting = []
        looked = 0
        for request in pending:
            looked += 1
            _, number, n, words_of = request
            bank = 1 << number
            if used & bank:
                waiting.append(request)
                continue
            used |= bank
            words_of.grant(n)
            left -= 1
            if not left:
                break
        pending[:looked] = waiting
        room[port] = left
        return used
