"""Other processes that find ahead what a search is likely to ask for, while it goes on and waits for none of them."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Arguments of a function.
Key = tuple[Any, ...]
#: The number of a task, a key, and what was found for it.
Result = tuple[int, Key, Any]


class Helper:
    """A process that works on numbered tasks, each a function that is called with one key after the other; None is no
    result.

    It is a Python of its own that does not import the user's script. Where it cannot begin, or dies, nothing
    is found.
    """

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import serve; serve()"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
            for work in (self._write, self._read):
                threading.Thread(target=work, daemon=True).start()

    def tell(self, message: bytes) -> None:
        """Send a message without waiting for it to be read."""
        self._messages.put(message)

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _write(self) -> None:
        assert self._process and self._process.stdin
        with contextlib.suppress(OSError):
            while True:
                self._process.stdin.write(self._messages.get())
                self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process and self._process.stdout
        with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
            while True:
                self.results.put(pickle.load(self._process.stdout))


class Helpers:
    """Several, which share what is wanted of a task."""

    def __init__(self, count: int) -> None:
        self._all = [Helper() for _ in range(count)]
        self._tasks = 0

    def begin(self, find: Callable[..., Any]) -> int:
        """The number of a new task; ``find`` and its keys can be pickled. Earlier tasks are worked on first."""
        self._tasks += 1
        work = pickle.dumps((self._tasks, _Task(find)))
        for helper in self._all:
            helper.tell(work)
        return self._tasks

    def once(self, find: Callable[[], Any]) -> None:
        """A task for one of them, each in turn, that is done when it was called once, without arguments."""
        self._tasks += 1
        work = pickle.dumps((self._tasks, _Task(find, [()], once=True)))
        self._all[self._tasks % len(self._all)].tell(work)

    def want(self, number: int, keys: Sequence[Key]) -> None:
        """From now on these keys are wanted of a task, the first first, and no others."""
        for i, helper in enumerate(self._all):
            helper.tell(pickle.dumps((number, keys[i :: len(self._all)])))

    def end(self, number: int) -> None:
        """Have a task forgotten."""
        for helper in self._all:
            helper.tell(pickle.dumps((number, None)))

    def results(self) -> Iterator[Result]:
        """What came since the last time."""
        for helper in self._all:
            with contextlib.suppress(queue.Empty):
                while True:
                    yield helper.results.get_nowait()

    def __len__(self) -> int:
        return len(self._all)

    def close(self) -> None:
        """End all."""
        for helper in self._all:
            helper.close()


@dataclass
class _Task:
    find: Callable[..., Any]
    wanted: list[Key] = field(default_factory=list)
    done: set[Key] = field(default_factory=set)
    once: bool = False


def serve() -> None:
    """What a helper does: read messages and write results until the process that began it ends."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints is no result
    tasks: dict[int, _Task] = {}
    changed = threading.Condition()

    def listen() -> None:
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                number, what = pickle.load(sys.stdin.buffer)
                with changed:
                    if what is None:
                        del tasks[number]
                    elif isinstance(what, _Task):
                        tasks[number] = what
                    else:
                        tasks[number].wanted = [key for key in what if key not in tasks[number].done]
                    changed.notify()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        with changed:
            changed.wait_for(lambda: any(task.wanted for task in tasks.values()))
            number, task = next((number, task) for number, task in tasks.items() if task.wanted)
            key = task.wanted.pop(0)
            task.done.add(key)
            if task.once:
                del tasks[number]
        if (found := task.find(*key)) is not None:
            pickle.dump((number, key, found), results)
            results.flush()
