"""A worker process: steps its share of the copies, until whoever started it hangs up."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from marlcomm.envs.foreign.copies import Block, Copies
from marlcomm.envs.foreign.settings import PettingZooSettings


def serve(line: Connection, descriptor: int) -> None:
    """Take orders and answer each.

    By whether it failed, the answer, or a traceback and whose it is, and the processor time of this process so far.
    """
    given, facts, rank, count = line.recv()
    settings = PettingZooSettings(**given)
    size = Block.size(facts, settings.copies)
    whole = Block.over(facts, settings.copies, mmap.mmap(descriptor, size))
    os.close(descriptor)
    copies = Copies(settings, whole.every(rank, count), range(rank, settings.copies, count))
    while True:
        order, *arguments = line.recv()
        failed, answer = _answer(getattr(copies, order), arguments)
        line.send((failed, answer, time.process_time()))


def _answer(play: Any, arguments: list[Any]) -> tuple[bool, Any]:
    try:
        return False, play(*arguments)
    except Exception as error:
        return True, (traceback.format_exc(), getattr(error, "copy", None))


def main() -> None:
    """Entry point: the numbers of two inherited descriptors, of the line and of the memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who plays decides what ends
    line, descriptor = map(int, sys.argv[1:])
    with contextlib.suppress(EOFError, ConnectionError):  # hung up
        serve(Connection(line), descriptor)


if __name__ == "__main__":
    main()
