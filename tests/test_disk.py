"""A run never loses its last good checkpoint: killed, or without room, at any of the operations of a save."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from marlcomm import checkpoint, disk
from marlcomm.config import experiment
from marlcomm.disk import DiskError
from marlcomm.log import MetricLog
from marlcomm.runs import Run


def struck(tmp_path, how):
    """What a run holds after each strike, and the errors that were told."""
    script = Path(__file__).parent / "crash_points.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, how], capture_output=True, text=True, timeout=250, check=True
    )
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    for trial in trials:
        # Whole, read to its end: at least what was there before, or what the process had told of.
        least = [3, trial["told"][-1]] if trial["told"] else [2, 2]
        assert trial["held"][-1] >= least, trial
        assert trial["then"][-1] == [5, 5], trial
        assert not any(name.startswith(".") for name in trial["left"]), trial
    return trials, done.stderr.splitlines()


def test_killed_at_any_instant_of_a_save_a_run_keeps_its_last_good_checkpoint(tmp_path):
    trials, _ = struck(tmp_path, "killed")
    assert len(trials) > 30
    assert [trial["status"] for trial in trials] == [-9] * (len(trials) - 1) + [0]
    assert {tuple(trial["held"][-1]) for trial in trials} == {(2, 2), (3, 3), (3, 4)}


@pytest.mark.parametrize(("how", "said"), [("full", "No space left on device: make room"), ("small", "File too large")])
def test_a_disk_without_room_is_told_and_keeps_what_was_there_and_nothing_else(tmp_path, how, said):
    trials, errors = struck(tmp_path, how)
    assert len(trials) > 5
    assert {trial["status"] for trial in trials} == {0, 1, 2} if how == "full" else {0, 2}
    assert sum(trial["hidden"] for trial in trials) == 0
    assert errors
    assert all(re.fullmatch(rf"cannot write \S+/checkpoints/000003: .*{said}.*", error) for error in errors), errors


def test_a_save_of_the_same_round_replaces_it(tmp_path):
    for value in (1, 2):
        checkpoint.write(tmp_path / "000001", {}, weights=np.full(3, value))
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]
    assert checkpoint.read(tmp_path / "000001").read("weights").tolist() == [2, 2, 2]


def test_a_file_without_room_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def refused(file, text, encoding):
        file.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    disk.write(tmp_path / "summary.json", "old")
    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(DiskError, match=r"cannot write .*summary\.json: No space left on device: make room"):
        disk.write(tmp_path / "summary.json", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
    assert (tmp_path / "summary.json").read_bytes() == b"old"
    with pytest.raises(DiskError):
        Run.create(experiment({}), tmp_path / "runs", ["train"])
    assert not list((tmp_path / "runs" / "run").iterdir())


def test_a_log_without_room_is_told(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = MetricLog(tmp_path)
    with pytest.raises(DiskError, match=r"cannot write figures to .*: No space left on device: make room"):
        log.write({"train/return": 1.0}, 10, 1)
    log.close()
