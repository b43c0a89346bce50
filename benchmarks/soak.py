"""A long run with remote runners: does the memory of a process grow, or its descriptors, or the object store?

Trains Traffic Junction easy as `marlcomm train` does, short evaluations and checkpoints included, on a Ray that belongs
to this process, and looks at the run's processes from outside. After a warm-up every series must be flat: the upper end
of its slope's interval stays below a limit.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import ray
from common import RESULTS, report
from ray._private.internal_api import get_memory_info_reply
from ray._private.state import state
from scipy import stats

from marlcomm import checkpoint
from marlcomm.rllib.cluster import OWN_RAY
from marlcomm.runs import Run

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
MB = 1e6
LIMITS = {"rss_mb": 1.0, "uss_mb": 1.0, "descriptors": 0.1, "object_store_mb": 0.1}  # a minute
_BLOCKS = 25
_SECONDS_BETWEEN, _SECONDS_TO_SAVE = 5.0, 600.0
_STORE = "object store"


@dataclass(frozen=True)
class Slope:
    """Growth a minute, with the ends of its 95 % interval."""

    per_minute: float
    low: float
    high: float


def slope(minutes: Sequence[float], values: Sequence[float]) -> Slope:
    """A line through means of blocks of equally many samples; blocks whose errors follow each other count as fewer."""
    blocks = min(_BLOCKS, len(values) // 2)
    if blocks < 4:
        raise ValueError(f"{len(values)} samples are too few for a slope, wanted 8 or more")
    times, means = (np.array([part.mean() for part in np.array_split(column, blocks)]) for column in (minutes, values))
    rate, start = np.polyfit(times, means, 1)
    errors = means - start - rate * times
    spread = float(errors @ errors)
    follows = max(float(errors[1:] @ errors[:-1]) / spread, 0.0) if spread > 1e-12 else 0.0
    deviation = np.sqrt(spread / (blocks - 2) / np.square(times - times.mean()).sum())
    half = stats.t.ppf(0.975, blocks - 2) * deviation * np.sqrt((1 + follows) / (1 - follows))
    return Slope(*(round(float(value), 4) for value in (rate, rate - half, rate + half)))


@dataclass(frozen=True)
class Sample:
    """What one look saw: figures by process, and when."""

    minutes: float
    figures: dict[tuple[str, int], dict[str, float]]


def look(process: psutil.Process) -> dict[str, float]:
    """Memory and open descriptors of a process; raises `psutil.Error` where it is gone."""
    memory = process.memory_full_info()
    return {"rss_mb": memory.rss / MB, "uss_mb": memory.uss / MB, "descriptors": process.num_fds()}


def object_store_mb() -> float:
    """What objects take in the stores of the Ray that this process is connected to."""
    return get_memory_info_reply(state).store_stats.object_store_bytes_used / MB


def role(process: psutil.Process) -> str:
    """What a process of the run is for."""
    words = process.cmdline()
    if words[0].startswith("ray::"):
        return words[0].partition(".")[0].removeprefix("ray::").split()[0]
    if "marlcomm.cli" in words:
        return "driver"
    script = next((word for word in words if word.endswith(".py")), words[0])
    return Path(script).stem


def watch(process: subprocess.Popen, minutes: float) -> Iterator[Sample]:
    """Look every few seconds at all processes below this one, while the given one runs."""
    began = time.monotonic()
    while (now := (time.monotonic() - began) / 60) < minutes:
        if process.poll() is not None:
            raise RuntimeError(f"the run ended by itself after {now:.1f} minutes, exit code {process.returncode}")
        figures = {(_STORE, 0): {"object_store_mb": object_store_mb()}}
        for one in psutil.Process().children(recursive=True):
            try:
                figures[role(one), one.pid] = look(one)
            except (psutil.Error, IndexError):  # it ended meanwhile
                continue
        yield Sample(now, figures)
        time.sleep(_SECONDS_BETWEEN)


def judge(samples: Sequence[Sample], warm_up: float) -> dict[str, dict[str, dict]]:
    """Slopes after the warm-up of each process that was there from then on: name -> figure -> what was found."""
    late = [sample for sample in samples if sample.minutes >= warm_up]
    stayed = set.intersection(*(set(sample.figures) for sample in late))
    minutes = [sample.minutes for sample in late]
    found = {}
    for name, pid in sorted(stayed):
        series = {
            figure: [sample.figures[name, pid][figure] for sample in late] for figure in late[0].figures[name, pid]
        }
        found[f"{name} {pid}" if pid else name] = {
            figure: _verdict(figure, slope(minutes, values), values) for figure, values in series.items()
        }
    return found


def _verdict(figure: str, found: Slope, values: list[float]) -> dict:
    ends = {"first": round(values[0], 2), "last": round(values[-1], 2), "most": round(max(values), 2)}
    return {**ends, **asdict(found), "limit": LIMITS[figure], "flat": found.high < LIMITS[figure]}


def draw(samples: Sequence[Sample], warm_up: float, file: Path) -> None:
    """Memory, descriptors and the object store over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 10), layout="constrained")
    panels = dict(zip(LIMITS, figure.subplots(len(LIMITS), sharex=True), strict=True))
    last = samples[-1].figures
    for key in last:
        for name, panel in panels.items():
            points = [(one.minutes, one.figures[key][name]) for one in samples if name in one.figures.get(key, {})]
            if points:
                panel.plot(*zip(*points, strict=True), linewidth=1, label=key[0])
    for name, panel in panels.items():
        panel.set_ylabel(name.replace("_mb", ", MB").replace("_", " "))
        panel.axvline(warm_up, color="0.7", linewidth=1)
        panel.grid(alpha=0.3)
        panel.set_ylim(bottom=0)
    panels["object_store_mb"].set_xlabel("minutes (the line: end of the warm-up)")
    panels["rss_mb"].legend(fontsize=8, ncols=3, loc="lower right")
    figure.savefig(file, dpi=90)


def train(runners: int, root: Path) -> subprocess.Popen:
    """A run without end on the Ray of this process."""
    settings = [f"resources.num_env_runners={runners}", "resources.threads=1", "run.env_steps=null", "run.minutes=1e6"]
    command = [sys.executable, "-m", "marlcomm.cli", "train", str(CONFIG), *settings, "--runs", str(root)]
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return subprocess.Popen([*command, "--no-evaluate"], env=os.environ | address, process_group=0)


def measure(runners: int, minutes: float) -> tuple[list[Sample], int, dict]:
    """Samples of a run that is stopped after some minutes, its exit code, and the counters of its last checkpoint."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        run = train(runners, Path(folder))
        try:
            for sample in watch(run, minutes):
                if not samples or int(sample.minutes) > int(samples[-1].minutes):
                    _tell(sample)
                samples.append(sample)
        finally:
            run.send_signal(signal.SIGTERM)
            code = run.wait(_SECONDS_TO_SAVE)
        return samples, code, checkpoint.read(Run.open(Path(folder) / "demo").last_checkpoint()).counters


def _tell(sample: Sample) -> None:
    memory = (f"{name} {one['rss_mb']:.0f}" for (name, _), one in sample.figures.items() if "rss_mb" in one)
    print(f"{sample.minutes:5.1f} min, MB:", ", ".join(memory), flush=True)


def main() -> int:
    """Train, look, and write results/benchmarks/soak.json with a picture beside; 1 where something grows."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--runners", type=int, default=2)
    options = options.parse_args()
    ray.init(num_cpus=options.runners, logging_level="ERROR", log_to_driver=False, **OWN_RAY)
    samples, code, counters = measure(options.runners, options.minutes)
    ray.shutdown()
    warm_up = options.minutes / 6
    growth = judge(samples, warm_up)
    flat = all(one["flat"] for figures in growth.values() for one in figures.values())
    report(
        "soak",
        minutes=options.minutes,
        warm_up_minutes=round(warm_up, 2),
        runners=options.runners,
        samples=len(samples),
        rounds=counters["round"],
        env_steps=counters["env_steps"],
        exit_code=code,
        flat=flat,
        growth=growth,
    )
    draw(samples, warm_up, RESULTS / "soak.png")
    return 0 if flat and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
