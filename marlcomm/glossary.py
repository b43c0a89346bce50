"""Every figure that marlcomm logs: its tag, its unit and how it is computed.

Tags are GROUP/NAME. Training logs one point a round, over the episodes of that round: ``train``, ``bandwidth``,
``loss``, ``policy``, ``channel``, ``replay``, ``update``, ``runners``, ``time``, ``transfer``. A short evaluation is
``validation``; summary.json holds ``evaluation`` (sampled actions, the headline), ``greedy``, ``shuffled`` (everybody
hears what is said in another episode), ``floor`` and ``ceiling``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure's unit and formula."""

    unit: str
    formula: str


EPISODE = {
    "return": Figure("reward / episode", "sum of the rewards of all slots over the episode, mean over episodes"),
    "length": Figure("env steps", "steps until the world ended, mean over episodes"),
    "success": Figure("share of episodes", "the world's own criterion at the end of the episode, mean over episodes"),
}
ENV_STATISTICS = {
    "traffic_junction": {
        "crashes": Figure("car steps / episode", "cars that share a cell with another, summed over steps"),
        "cars": Figure("cars / episode", "cars that entered"),
    },
    "communicating_goal": {
        "steps_to_goal": Figure("env steps", "steps until the goal was reached; all steps where it never was"),
        "distance": Figure("env steps", "the fewest steps that would have done, from start to goal"),
        "goal": Figure("1", "the number of the goal in env.goals: a label of each episode, whose mean says nothing"),
    },
    "particle_spread": {
        "coverage": Figure("share of landmarks", "landmarks within 0.1 of an agent that scores them, at the end"),
        "collisions": Figure("pair steps / episode", "pairs of agents that touch, summed over steps"),
        "landmark_distance": Figure(
            "distance / step", "sum over landmarks of the distance to the agent that scores them, mean over steps"
        ),
    },
    "predator_prey": {
        "on_prey": Figure("predators", "predators on the prey at the end"),
        "steps_to_first": Figure("env steps", "steps until a predator stood on the prey; all steps where none did"),
        "steps_to_all": Figure("env steps", "steps until all predators stood on it; all steps where they never did"),
    },
    "ghost_run": {
        "red_pixels": Figure("cell steps / episode", "cells with a ghost that a drone sees, summed over steps"),
        "ghosts_met": Figure("share of ghosts", "ghosts that were in view at least once"),
        "coverage": Figure("share of cells", "cells that were in view at least once"),
    },
    "lewis_game": {
        "shared_attributes": Figure("attributes", "attributes of the chosen object that are those of the target"),
    },
    "pettingzoo": {
        "survivors": Figure("agents", "agents that had not left for good at the end"),
    },
}
BANDWIDTH = {
    "messages_per_agent_step": Figure("messages / agent step", "messages sent / living agents' rights to speak"),
    "nominal_bits_per_message": Figure(
        "bits / message", "sum over the symbol slots on the wire of log2(values of the slot)"
    ),
    "prefix_bits_per_message": Figure(
        "bits / message", "length of the default prefix code, plus presence bits where there is a gate, over messages"
    ),
    "prefix_bits_per_agent_step": Figure("bits / agent step", "the same bits over rights to speak, used or not"),
    "prefix_bits_per_env_step": Figure("bits / env step", "the same bits over env steps"),
    "prefix_bits_per_episode": Figure("bits / episode", "the same bits over episodes"),
    "received_prefix_bits_per_env_step": Figure(
        "bits / env step", "prefix bits times the living agents other than the sender, over env steps"
    ),
    "received_prefix_bits_per_episode": Figure("bits / episode", "the same over episodes"),
    "clipped_symbols": Figure("share of symbols", "signed symbols at the limit of their slot: clipped, or just not"),
    "distinct_messages": Figure(
        "messages", "how many different messages were seen; withheld, like what follows, for floats and beyond 65,536"
    ),
    "missing_mass": Figure(
        "probability", "that the next message is a new one (Good-Turing): messages seen once over messages"
    ),
    "joint_entropy_bits_per_message": Figure(
        "bits / message",
        "diagnostic: plug-in entropy of whole messages; withheld under ten samples a distinct message, and "
        "where the missing mass is 1 % or more",
    ),
    "corrected_joint_entropy_bits_per_message": Figure(
        "bits / message", "the same plus (distinct messages - 1) / (2 messages ln 2) (Miller-Madow)"
    ),
}


def bottleneck_figure(name: str) -> str | None:
    """What a figure of `BANDWIDTH` is called of a bottleneck at the read-out; None: nobody receives what is in it."""
    return None if name.startswith("received_") else f"bottleneck_{name.replace('prefix_bits', 'bits')}"


# With `channel.placement: readout`: a message is what a receiver who heard anybody read, an agent step a right to hear.
BOTTLENECK = {
    tag: Figure(figure.unit, f"at the read-out: {figure.formula}")
    for name, figure in BANDWIDTH.items()
    if (tag := bottleneck_figure(name)) is not None
}
# Where agents choose to speak.
GATES = {
    "gate_rate": Figure("share of agent steps", "rights to speak with an open gate over all rights to speak"),
    "effective_gate_rate": Figure(
        "share of agent steps",
        "those among them in which another living agent could hear, by the policy's own rule, over all rights to speak",
    ),
}
# With actions of the world's own that say something, beside what the channel carries.
ENV_MESSAGES = {
    "env_message_bits_per_agent_step": Figure(
        "bits / agent step",
        "log2(words that the action of the world's own could have said; 32 bits a number of a box), summed over living "
        "agents and steps, over rights to speak on the channel",
    ),
    "env_message_bits_per_env_step": Figure("bits / env step", "the same bits over env steps"),
    "env_message_bits_per_episode": Figure("bits / episode", "the same bits over episodes"),
}
WIRE = {
    "wire_bytes_per_message": Figure("bytes / message", "length of the packets: 4 header bytes and the padded payload"),
    "paper_bits_per_message": Figure(
        "bits / message",
        "ddcl: sum of log2(2 |m| + 1), as published; no decodable code has such lengths, so it is never the headline",
    ),
    "wire_bytes_per_episode": Figure("bytes / episode", "the same bytes over episodes"),
}
_ENDS = {"low": "lower", "high": "upper"}
CODED = {
    "coded_bits_per_agent_step": Figure(
        "bits / agent step",
        "the headline rate: payload bits of the packets, under the code that was fitted on other episodes and frozen, "
        "plus presence bits where there is a gate, over rights to speak",
    ),
    "coded_bits_per_message": Figure("bits / message", "the same bits over messages"),
    "coded_bits_per_episode": Figure("bits / episode", "the same bits over episodes"),
    "compression_ratio": Figure(
        "1",
        "32 bits for each number of a step's message vectors (D, times the rounds), over coded bits / agent step",
    ),
    **{
        f"coded_bits_per_{unit}_{end}": Figure(
            f"bits / {unit.replace('_', ' ')}", f"{_ENDS[end]} end of its 95 % interval, by bootstrap over episodes"
        )
        for unit in ("agent_step", "episode")
        for end in _ENDS
    },
}
DIAGNOSTICS = {
    "stream_bits_per_agent_step": Figure(
        "bits / agent step",
        "32-bit words of a range coder that writes the messages of each link in an episode as one stream, under tables "
        "fitted and frozen like the code, plus presence bits; over the first 500 episodes; no headers",
    ),
    "stream_bits_per_episode": Figure("bits / episode", "the same bits over episodes"),
    "adaptive_bits_per_message": Figure(
        "bits / message",
        "length of all messages under a code of each slot that starts from nothing and counts along "
        "(Krichevsky-Trofimov), over messages",
    ),
    "factored_entropy_bits_per_message": Figure(
        "bits / message",
        "plug-in entropies of the slots, summed as often as each is on the wire; withheld where one of them is not "
        "estimable by the rule of the joint entropy",
    ),
    "selector_entropy_bits_per_message": Figure(
        "bits / message",
        "dvq, and rvq with `prefix: random`: plug-in entropy of the first symbol, which says whose symbols follow; "
        "withheld where it is not estimable",
    ),
    "conditional_entropy_bits_per_message": Figure(
        "bits / message",
        "plug-in entropy of a message given its sender's last one in the episode; withheld where that of the pairs is "
        "not estimable",
    ),
}
ERRORS = {
    "success_standard_error": Figure("share of episodes", "standard deviation of success / sqrt(episodes)"),
    "return_standard_error": Figure("reward / episode", "standard deviation of returns / sqrt(episodes)"),
}
LEARNING = {
    "loss/policy": Figure("1", "policy loss, mean over acting agents and the round's minibatches"),
    "loss/value": Figure(
        "scaled reward^2",
        "value loss before its weight, mean over acting agents and minibatches; no unit where values are normalised",
    ),
    "loss/cross_entropy": Figure("nats", "supervised: -ln pi(right action), mean over labels and minibatches"),
    "policy/accuracy": Figure(
        "share of labels", "supervised: labels whose action is the likeliest one, mean over minibatches"
    ),
    "policy/entropy": Figure(
        "nats",
        "entropy of the action distribution (gate included), mean over acting agents; of box actions that of the "
        "density in units of half the box, before clipping: it may be negative",
    ),
    "policy/entropy_share": Figure(
        "share", "MAPPO with target_entropy: where policy/entropy is between the lowest and the highest possible"
    ),
    "policy/entropy_weight": Figure(
        "scaled reward / nat", "MAPPO with target_entropy: weight of the entropy bonus in this round"
    ),
    "policy/clipped_fraction": Figure("share", "MAPPO: agent steps whose probability ratio left the clipping range"),
    "policy/penalty": Figure("1", "MADDPG: mean square of logits (or of the means of box actions), before its weight"),
    "critic/value": Figure("scaled reward", "MADDPG: the first critic on recorded actions, mean over updates"),
    "critic/target": Figure("scaled reward", "MADDPG: r + gamma Q' of the targets, mean over updates"),
    "replay/env_steps": Figure("env steps", "MADDPG: env steps that the replay holds"),
    "replay/mebibytes": Figure("MiB", "MADDPG: memory that the replay takes when it is full"),
    "update/updates": Figure("updates", "MADDPG: updates so far"),
    "policy/kl": Figure("nats", "MAPPO: mean of ratio - 1 - ln(ratio), from the rollout's policy to the present one"),
    "policy/lag": Figure(
        "rounds",
        "rounds that the weights which played had not learned from, though they are before the played one: 0, and 1 in "
        "asynchronous sampling after the first round",
    ),
    "channel/rate": Figure("bits / message", "ddcl: surrogate sum of log2(2 |z| / delta + 1); no code length"),
    "channel/entropy": Figure(
        "nats / message", "lfq, bsq: entropy of the soft bits, less diversity times their cost in a code for the usage"
    ),
    "channel/usage": Figure("nats / message", "lfq, bsq: that cost again, whose gradient moves the usage"),
    "channel/length": Figure("tokens / message", "gumbel, gr_mck: tokens sent, end mark included; no code length"),
    "channel/codebook": Figure(
        "distance^2 / element", "vq, dvq, rvq: squared distance of codewords to messages; dvq sums over its pool"
    ),
    "channel/commitment": Figure(
        "distance^2 / element",
        "vq, dvq, rvq, lfq, bsq: messages to their codewords; moves messages",
    ),
    "channel/capacity": Figure(
        "bits / message", "dvq: expected cost of the choice, nominal bits (or the unit of a legacy penalty)"
    ),
    "channel/balance": Figure(
        "nats", "dvq: sum over the pool of probability times log(N share), shares being those of the last update"
    ),
    "channel/credit": Figure(
        "objective", "daps in mode task: standard deviation of J over the K samples of a message, mean over messages"
    ),
    "channel/search": Figure("nats", "daps: -sum over K samples of weight times log q; ppo: its clipped loss"),
    "channel/reconstruction": Figure(
        "nats / element", "daps: negative mean log-likelihood of the standardised message, over K samples"
    ),
    "channel/trust": Figure("share", "daps: 1 / (K sum of squared weights), the effective share of the K samples"),
    "channel/scale": Figure("1", "daps: mean square of the standardised message; 1 where centre and spread fit"),
    "channel/table": Figure("bits / message", "daps with bit_cost: -log2 q under its learned table; no code length"),
    "replay/flipped_symbols": Figure(
        "share of symbols",
        "symbols the learner recomputes differently before any step; with a policy lag, what that changed too",
    ),
    "replay/ratio_error": Figure(
        "1", "largest |probability ratio - 1| before any step, in worlds without a flip; with a policy lag likewise"
    ),
    "update/skipped": Figure(
        "minibatches", "updates skipped this round because the loss or a gradient was infinite or NaN"
    ),
    "runners/restarts": Figure("restarts", "remote runners that died in this round and were started anew"),
    "runners/recovery_seconds": Figure(
        "s", "from the notice of the first death in this round until all remote runners had played it; 0: nobody died"
    ),
    "time/world": Figure("share of a round", "stepping worlds; in asynchronous sampling beside the updates"),
    "time/policy": Figure("share of a round", "the policy in the runners, channel included; likewise"),
    "time/update": Figure("share of a round", "the learners' updates"),
    "time/transfer": Figure(
        "share of a round", "everything between: counting, packing, fetching, joining, weights; waiting for runners"
    ),
    "transfer/bytes_per_env_step": Figure(
        "bytes / env step",
        "what columns take, packed, where other processes read them, over env steps; 0 where one process does all",
    ),
    "time/env_steps_per_second": Figure("env steps / s", "env steps of the round over its wall time"),
    "time/training_seconds": Figure("s", "wall time of all rounds so far, evaluations left out"),
    "time/core_seconds": Figure(
        "core s",
        "processor time of all rounds so far, summed over the threads of driver, runners, learners and workers that "
        "step worlds",
    ),
}


def glossary(env: str) -> dict[str, Figure]:
    """All tags that a run on this environment may log, with their meaning."""
    episode = EPISODE | ENV_STATISTICS.get(env, {})
    bandwidth = BANDWIDTH | BOTTLENECK | GATES | ENV_MESSAGES
    evaluated = episode | bandwidth | WIRE | ERRORS
    return (
        {f"train/{name}": figure for name, figure in episode.items()}
        | {f"bandwidth/{name}": figure for name, figure in bandwidth.items()}
        | LEARNING
        | {f"validation/{name}": figure for name, figure in evaluated.items()}
    )
