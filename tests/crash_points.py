"""Saves a run's checkpoint again and again, each time struck at another point.

``python crash_points.py FOLDER killed|full|small``, for n = 1, 2, ... until nothing is struck: the process is killed
before its n-th operation on files; nothing can be made on the disk from the n-th file or folder on; or no file may be
longer than n - 1 KiB. Prints a line of JSON for each n: what the run holds afterwards.
"""

import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

from marlcomm import checkpoint
from marlcomm.disk import DiskError
from marlcomm.runs import Run

MAKES = {"os.mkdir", "os.link"}
TOUCHES = MAKES | {"open", "os.rename", "os.remove", "os.rmdir", "os.scandir"}
SIZE = 1000


def save(run, round_, value):
    """One checkpoint, whose replay is shared with the one before."""
    before = run.checkpoints()
    replay = checkpoint.Stored(before[-1]) if before else np.arange(SIZE)
    weights = [np.full(SIZE, value)]
    checkpoint.write(run.checkpoint(round_), {"round": round_, "value": value}, weights=weights, replay=replay)
    run.drop_old_checkpoints()


def killed(count):
    left = iter(range(count - 1))

    def watch(event, arguments):
        if event in TOUCHES and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def full(count):
    left = iter(range(count - 1))

    def watch(event, arguments):
        makes = event in MAKES or (event == "open" and arguments[2] & os.O_CREAT)
        if makes and next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sys.addaudithook(watch)


def small(count):
    resource.setrlimit(resource.RLIMIT_FSIZE, ((count - 1) * 1024, -1))


def child(run, strike, count, line):
    """Two saves, the second of the same round again; tells of each when it is over."""
    strike(count)
    failures = 0
    for value in (3, 4):
        try:
            save(run, 3, value)
            os.write(line, bytes([value]))
        except DiskError as error:
            print(error, file=sys.stderr, flush=True)
            failures += 1
    os._exit(failures)


def held(run):
    """What the run's checkpoints hold, all of it read: (round, value) of each."""
    contents = []
    for folder in run.checkpoints():
        stored = checkpoint.read(folder)
        counters, weights, replay = stored.counters, stored.read("weights"), stored.read("replay")
        assert (weights[0] == counters["value"]).all()
        assert (replay == np.arange(SIZE)).all()
        contents.append([counters["round"], counters["value"]])
    return contents


def trial(run, strike, count):
    for round_ in (1, 2):
        save(run, round_, round_)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        child(run, strike, count, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as line:
        told = list(line.read())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    hidden = len(list((run.folder / "checkpoints").glob(".*")))
    found = held(run)
    save(run, 5, 5)
    left = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    return {"status": status, "told": told, "hidden": hidden, "held": found, "then": held(run), "left": left}


def main(root, strike):
    for count in range(1, 1000):
        result = trial(Run(root / f"{count:03d}"), strike, count)
        print(json.dumps(result))
        if not result["status"]:
            break


if __name__ == "__main__":
    main(Path(sys.argv[1]), {"killed": killed, "full": full, "small": small}[sys.argv[2]])
