"""Training Traffic Junction medium by IC3Net's recipe: RLlib's path beside a bare loop, round by round in one process.

The bare loop has the same worlds, policy, loss, optimiser and threads, and no Ray. Its rounds alternate with those of
the RLlib path, so a drifting machine cancels out of the ratio.
"""

import argparse
import os
import statistics
import tempfile
import time

import torch
from common import median_ratio, report

from marlcomm.algorithms import IC3NetConfig
from marlcomm.channels.base import Peers
from marlcomm.objectives.base import channel_loss, sent_messages
from marlcomm.objectives.credit import message_credit
from marlcomm.policies.metering import count
from marlcomm.policies.records import Moment, Talk
from marlcomm.policies.rollout import Player, channel_noise
from marlcomm.policies.team import make_meter
from marlcomm.rllib.rows import ADVANTAGES, epoch_rows, minibatches, round_moments, standardize_advantages


class BareLoop:
    """What `TeamAlgorithm` does in a round, without RLlib."""

    def __init__(self, config) -> None:
        self.config, self.objective = config, config.objective()
        names = config.team_names()
        self.env = names.make_env()
        self.policy = names.make_policy(self.env, config.seed)
        self.player = Player(self.env, self.policy, config.seed)
        self.meter = make_meter(self.policy)
        self.optimizer = config.make_optimizer(list(self.policy.parameters()))
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr
        self.worlds = torch.arange(config.num_worlds)
        self.round = self.env_steps = 0

    def sample(self) -> dict[str, torch.Tensor]:
        """The rows of one episode of each world."""
        rollout = self.player.play(self.worlds, torch.full_like(self.worlds, self.round))
        self.env_steps += rollout.env_steps
        count(self.meter, rollout)
        batch = self.objective.columns(rollout)
        if self.objective.normalizes_advantages:
            of = round_moments(batch, self.objective.normalized_over(batch))[ADVANTAGES]
            standardize_advantages(batch, of, self.objective.sample_deviation)
        return batch

    def minibatches(self, batch: dict[str, torch.Tensor], epoch: int) -> list[dict[str, torch.Tensor]]:
        number = self.config.num_minibatches
        return list(minibatches(epoch_rows(batch, self.config.seed, self.round, epoch, number, 1), number))

    def step(self, part: dict[str, torch.Tensor]) -> Talk:
        """Forward, loss, backward and optimiser on a minibatch."""
        config, channel = self.config, self.policy.quantiser
        noise = channel_noise(channel, config.seed, "train", part["world"], part["episode"], *part["alive"].shape[1:])
        moment = Moment(part["observations"], part["alive"], part["spawned"], part.get("gates"), noise)
        decision = self.policy(moment, running=part["running"])
        loss = self.objective.loss(part, decision, self.env_steps).total
        said = decision.talk.quantised
        credit = message_credit(self.policy, self.objective, part, said)
        loss = loss + channel_loss(channel, said, part["acts"], part["messages"][0], credit).total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.grad_clip)
        self.optimizer.step()
        return said

    def train(self) -> None:
        channel, batch = self.policy.quantiser, self.sample()
        said = []
        for epoch in range(self.config.num_epochs):
            for part in self.minibatches(batch, epoch):
                talk = self.step(part)
                if epoch == 0 and channel.absorbs:
                    said.append(sent_messages(talk, part["acts"]))
        if channel.absorbs:
            channel.absorb(torch.cat(said), self.env_steps, Peers())
        channel.after_update(self.env_steps)
        self.round += 1


def main() -> None:
    """Measure, and write results/benchmarks/training.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--worlds", type=int, default=256)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options = options.parse_args()

    import ray

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, logging_level="ERROR")
    torch.set_num_threads(options.threads)
    config = (
        IC3NetConfig()
        .environment("traffic_junction", env_config={"difficulty": "medium"})
        .communication(policy="ic3net", policy_config={"force_gate_open": True}, channel="continuous")
        .env_runners(num_envs_per_env_runner=options.worlds)
        .logging(log_dir=tempfile.mkdtemp())
    )
    algorithm, bare = config.build_algo(), BareLoop(config)
    algorithm.train()
    bare.train()
    seconds: dict[str, list[float]] = {"rllib": [], "bare": []}
    for _ in range(options.rounds):
        for name, trainer in (("rllib", algorithm), ("bare", bare)):
            clock = time.perf_counter()
            trainer.train()
            seconds[name].append(time.perf_counter() - clock)
    env_steps = options.worlds * 40
    learned = algorithm.get_module().policy.state_dict()
    same = all(torch.equal(value, learned[name]) for name, value in bare.policy.state_dict().items())
    report(
        "training",
        recipe="traffic_junction medium, ic3net, continuous, REINFORCE by RMSprop",
        worlds=options.worlds,
        threads=options.threads,
        rounds=options.rounds,
        env_steps_per_second={
            name: {"median": round(env_steps / statistics.median(times)), "best": round(env_steps / min(times))}
            for name, times in seconds.items()
        },
        rllib_time_over_bare_time=round(median_ratio(seconds["rllib"], seconds["bare"]), 4),
        both_learned_the_same_weights=same,
    )
    algorithm.stop()


if __name__ == "__main__":
    main()
