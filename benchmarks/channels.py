"""What a channel costs in training: a step of every channel beside one of `continuous`, pair by pair in one process.

A step is forward, loss, backward and optimiser on rows of whole worlds (no rollout): Traffic Junction medium, 10
agents, the transformer of width 64 under MAPPO, messages of 16 numbers, one thread (channels are many small operations,
which more threads do not make quicker). `vq` is also held against VectorQuantize of
vector-quantize-pytorch, on the same messages.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from common import median_ratio, report
from torch import Tensor
from training import BareLoop
from vector_quantize_pytorch import VectorQuantize

from marlcomm.algorithms import MAPPOConfig
from marlcomm.policies.team import make_channel
from marlcomm.registry import CHANNELS

SIZE = 16
SETTINGS = {
    "vq": {"codebook_size": 64},
    "fsq": {"levels": [5] * SIZE},
    "gumbel": {"tokens": 4},
    "gr_mck": {"tokens": 4, "samples": 10},
    "lfq": {"bits": 16},
    "bsq": {"bits": 16},
}
VARIANTS = {
    "vq, ema": ("vq", {"codebook_size": 64, "update": "ema"}),
    "dvq, hierarchical": ("dvq", {"structure": "hierarchical"}),
    "gumbel, autoregressive": ("gumbel", {"tokens": 4, "sender": "autoregressive"}),
}


def all_channels() -> dict[str, tuple[str, dict]]:
    """A setting of every registered channel, and some variants."""
    return {name: (name, SETTINGS.get(name, {})) for name in CHANNELS.rows} | VARIANTS


def training_step(channel: str, settings: dict, worlds: int) -> Callable[[], object]:
    """A step that can be repeated, on one minibatch."""
    config = (
        MAPPOConfig()
        .environment("traffic_junction", env_config={"difficulty": "medium"})
        .communication(
            policy="transformer",
            policy_config={"width": 64, "message_size": SIZE},
            channel=channel,
            channel_config=settings,
        )
        .env_runners(num_envs_per_env_runner=worlds)
        .logging(log_dir=tempfile.mkdtemp())
    )
    loop = BareLoop(config)
    batch = loop.sample()
    rows = loop.minibatches(batch, 0)[0]
    return lambda: loop.step(rows)


def seconds_of(work: Callable[[], object]) -> float:
    """How long one call takes."""
    clock = time.perf_counter()
    work()
    return time.perf_counter() - clock


def beside(reference: Callable[[], object], works: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict]:
    """Median milliseconds of each work, and median ratio to the reference measured right before it."""
    own: dict[str, list[float]] = {name: [] for name in works}
    references: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            pair = seconds_of(reference), seconds_of(work)
            if round_:  # the first one warms up
                references[name].append(pair[0])
                own[name].append(pair[1])
    return {
        name: {
            "milliseconds": round(1000 * statistics.median(times), 2),
            "ratio": round(median_ratio(times, references[name]), 3),
        }
        for name, times in own.items()
    }


def ours(messages: Tensor) -> Callable[[], object]:
    """Transmit and backward of vq with its losses, which is loss-trained."""
    channel = make_channel("vq", SETTINGS["vq"], SIZE)
    channel.calibrate(messages.detach())

    def work() -> None:
        sent = channel.transmit(messages)
        loss = sent.received.square().mean()
        for name, weight in channel.loss_weights().items():
            loss = loss + weight * sent.losses[name].mean()
        loss.backward()

    return work


def theirs(messages: Tensor, **settings: object) -> Callable[[], object]:
    """The same of VectorQuantize."""
    quantiser = VectorQuantize(dim=SIZE, codebook_size=64, **settings)

    def work() -> None:
        received, _, loss = quantiser(messages)
        (received.square().mean() + loss.sum()).backward()

    return work


def main() -> None:
    """Measure, and write results/benchmarks/channels.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--worlds", type=int, default=16)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--note", help="what else is to be known of the machine")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    steps = {label: training_step(name, settings, options.worlds) for label, (name, settings) in all_channels().items()}
    reference = training_step("continuous", {}, options.worlds)
    costs = beside(reference, steps, options.rounds)
    messages = torch.randn(options.worlds * 40 * 10, SIZE, requires_grad=True)
    library = {
        "VectorQuantize, loss-trained": theirs(messages, learnable_codebook=True, ema_update=False),
        "VectorQuantize, ema": theirs(messages),
    }
    report(
        "channels",
        recipe="traffic_junction medium, transformer of width 64, messages of 16, MAPPO; one step on a minibatch",
        worlds=options.worlds,
        rounds=options.rounds,
        threads=options.threads,
        note=options.note,
        step=costs,
        library_over_vq=beside(ours(messages), library, 3 * options.rounds),
    )


if __name__ == "__main__":
    main()
