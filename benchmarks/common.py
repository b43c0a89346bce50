"""What all benchmarks share: the machine, and a JSON file beside each result."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marlcomm.runs import versions

RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"


def best_of(times: int, work: Callable[[], Any]) -> float:
    """Seconds of the quickest of several calls: what the machine can do when nobody else uses it."""
    seconds = []
    for _ in range(times):
        clock = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - clock)
    return min(seconds)


def median_ratio(first: list[float], second: list[float]) -> float:
    """Median over pairs measured one right after the other, so that a drifting machine cancels out."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def report(name: str, **figures: Any) -> None:
    """Print figures and write them to results/benchmarks/NAME.json with the machine and the command."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = {
        "command": " ".join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), **versions()},
        **figures,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
