"""`marlcomm` as a user calls it: in a process of its own, or where only words matter in this one."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from marlcomm import cli

TERMINAL = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


@dataclass(frozen=True)
class Said:
    """What a command wrote."""

    stdout: str
    stderr: str


def command(*arguments):
    return [sys.executable, "-m", "marlcomm.cli", *map(str, arguments)]


def environment():
    return os.environ | TERMINAL


def marlcomm(*arguments, cwd, code=0):
    """Run it in a process of its own."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment(), timeout=280, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return Said(done.stdout, done.stderr)


def wait_for(condition, process=None, seconds=200):
    """Wait until a condition holds, while a process, if one is given, runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


class Here:
    """Runs it in this process by its entry point, without the seconds that a new Python needs for its imports."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments, cwd: Path | str = ".", code=0):
        self.capsys.readouterr()
        with self.monkeypatch.context() as patch:
            for name, value in TERMINAL.items():
                patch.setenv(name, value)
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["marlcomm", *map(str, arguments)])
            patch.setattr(sys, "path", list(sys.path))
            with pytest.raises(SystemExit) as done:
                cli.main()
        said = Said(*self.capsys.readouterr())
        assert (done.value.code or 0) == code, said
        return said
