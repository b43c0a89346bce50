"""What counting bits costs in training: the meter's time beside a round of the demo and of IC3Net on medium."""

import os
import statistics
import tempfile
import time

import torch
from common import report
from training import BareLoop

from marlcomm.algorithms import IC3NetConfig, MAPPOConfig
from marlcomm.policies.metering import count


def share(config, rounds: int = 5) -> float:
    """Median over rounds of the meter's share of the round's time."""
    loop = BareLoop(config.env_runners(num_envs_per_env_runner=256).logging(log_dir=tempfile.mkdtemp()))
    loop.train()
    shares = []
    for _ in range(rounds):
        clock = time.perf_counter()
        loop.train()
        whole = time.perf_counter() - clock
        rollout = loop.player.play(loop.worlds, torch.full_like(loop.worlds, loop.round))
        clock = time.perf_counter()
        count(loop.meter, rollout)
        shares.append((time.perf_counter() - clock) / whole)
    return round(statistics.median(shares), 4)


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    medium = {"difficulty": "medium"}
    report(
        "meter",
        share_of_a_round={
            "easy, mappo, transformer, ddcl of 4 symbols": share(
                MAPPOConfig()
                .environment("traffic_junction", env_config={})
                .communication(policy_config={"message_size": 4}, channel="ddcl"),
            ),
            "medium, ic3net, ddcl of 8 symbols": share(
                IC3NetConfig()
                .environment("traffic_junction", env_config=medium)
                .communication(policy_config={"message_size": 8, "force_gate_open": True}, channel="ddcl"),
            ),
            "medium, ic3net, vq of 8 symbols": share(
                IC3NetConfig()
                .environment("traffic_junction", env_config=medium)
                .communication(
                    policy_config={"message_size": 8, "force_gate_open": True},
                    channel="vq",
                    channel_config={"segments": 8},
                ),
            ),
        },
    )
