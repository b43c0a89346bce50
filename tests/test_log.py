"""Figures written down, and written again after going back."""

import json
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from marlcomm.log import MetricLog


def points(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [line["a"] for line in lines], [point.value for point in events.Scalars("a")]


def test_going_back_writes_every_point_once(tmp_path):
    log = MetricLog(tmp_path)
    for step in range(1, 6):
        log.write({"a": step}, env_steps=10 * step, round_=step)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 60, "rou')  # killed while writing
    for back in (30, 0):
        time.sleep(1.1)  # files of the same second have no certain order
        log = MetricLog(tmp_path)
        before = (tmp_path / "metrics.jsonl").read_text()
        log.go_back(back)
        assert (tmp_path / "metrics.jsonl").read_text() == before  # who only looks changes nothing
        for step in range(back // 10 + 1, 5):
            log.write({"a": -step}, env_steps=10 * step, round_=step)
        log.close()
        expected = [1, 2, 3, -4] if back else [-1, -2, -3, -4]
        assert points(tmp_path) == (expected, expected)
