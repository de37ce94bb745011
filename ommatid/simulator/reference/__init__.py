"""The reference machine: every cycle stepped, written plainly from docs/isa.md; it judges the other executors."""

from ommatid.simulator.reference.machine import Account, Deadlock, Reference, simulate
from ommatid.simulator.reference.memories import Memories

__all__ = ["Account", "Deadlock", "Memories", "Reference", "simulate"]
