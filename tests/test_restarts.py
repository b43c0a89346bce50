"""`marlcomm train --restarts N`: a program stands in for the training, and ends as it is told."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marlcomm.cli import restarts
from marlcomm.runs import Run

TRAINING = """
import json, os, signal, sys, time
from pathlib import Path
told = Path(sys.argv[1])
calls = json.loads(told.read_text()) if told.exists() else []
told.write_text(json.dumps([*calls, sys.argv[3:]]))
end = sys.argv[2].split(",")[len(calls)]
if end == "wait":
    signal.signal(signal.SIGTERM, lambda *a: sys.exit(1))
    Path(str(told) + ".ready").touch()
    time.sleep(100)
if end.startswith("-"):
    os.kill(os.getpid(), -int(end))
sys.exit(int(end))
"""


@pytest.fixture
def training(tmp_path, monkeypatch):
    """Lets a training end in ways, one after the other; returns the exit code, and what each was started with."""

    def train(ends, number):
        told = tmp_path / "calls"
        monkeypatch.setattr(restarts, "PROGRAM", (sys.executable, "-c", TRAINING, str(told), ends))
        code = restarts.train_with_restarts(Run(Path("runs/x/now")), ["--no-evaluate"], number)
        return code, json.loads(told.read_text())

    return train


@pytest.mark.parametrize(
    ("ends", "number", "code", "sessions", "said"),
    [
        ("0", 2, 0, 1, ""),
        (
            "-9,1,0",
            2,
            0,
            3,
            "was killed by SIGKILL: restart 1 of 2\nthe training ended with exit code 1: restart 2 of 2",
        ),
        ("-9,-9", 1, 137, 2, "was killed by SIGKILL, and 1 restarts are over"),
        ("130", 2, 130, 1, ""),
        ("2", 2, 2, 1, ""),
    ],
)
def test_a_training_that_dies_goes_on(training, capsys, ends, number, code, sessions, said):
    assert training(ends, number) == (code, [["train", "--resume", "runs/x/now", "--no-evaluate"]] * sessions)
    assert said in capsys.readouterr().err


def test_whoever_stops_it_stops_it(tmp_path):
    """A SIGTERM is handed on once, and what then ends is not begun again, whatever its exit code."""
    calls = tmp_path / "calls"
    script = (
        "from marlcomm.cli import restarts; from marlcomm.runs import Run; from pathlib import Path; import sys; "
        f"restarts.PROGRAM = (sys.executable, '-c', {TRAINING!r}, {str(calls)!r}, 'wait,0'); "
        "sys.exit(restarts.train_with_restarts(Run(Path('runs/x/now')), [], 3))"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    end = time.monotonic() + 100
    while not Path(f"{calls}.ready").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 1
    assert len(json.loads(calls.read_text())) == 1
