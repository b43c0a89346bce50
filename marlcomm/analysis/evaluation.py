"""Evaluating a run: its last checkpoint, between the scripted floor and ceiling of its world."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marlcomm import checkpoint
from marlcomm.analysis.evidence import shortcomings
from marlcomm.config import Choice, Experiment
from marlcomm.envs.base import TeamEnv, TeamSpec
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.coding import frozen_code
from marlcomm.policies.evaluation import evaluate, evaluate_script, evaluate_shuffled
from marlcomm.policies.team import TeamNames, what_fits
from marlcomm.registry import CHANNELS, ConfigError
from marlcomm.runs import Run, here

_BY_SLOT = {  # settings of policies that hold something for each agent of a team
    "agent_identity": "policy.agent_identity adds {} numbers to an observation, one for each agent",
    "knows_senders": "policy.knows_senders has a vector for each of {} agents",
    "slot_bias": "policy.slot_bias has vectors for each of {} agents",
}


def team_names(settings: Experiment) -> TeamNames:
    """The parts of an experiment's team."""
    return TeamNames(
        settings.env.name,
        settings.env.settings.model_dump(),
        settings.policy.name,
        settings.policy.settings.model_dump(),
        settings.channel.name,
        settings.channel.settings.model_dump(),
    )


def load_team(settings: Experiment, folder: Path, trained: Experiment | None = None) -> tuple[TeamEnv, TeamPolicy]:
    """The world and the trained policy of a checkpoint, ready to play.

    Where the settings name another channel than the one it was trained with, that channel is new (and calibrated on
    what the trained team says, if it can be); everything else must be in the checkpoint. The world may be another one
    than in the settings it was `trained` with, as far as the policy's widths allow.
    """
    names = team_names(settings)
    env = names.make_env(final=True)
    if trained is not None and trained.env != settings.env:
        _check_widths(env.spec, team_names(trained).make_env(final=True).spec, settings)
    stored = checkpoint.read(folder)
    weights = names.start(stored)
    policy = names.make_policy(env, settings.seed, weights)
    missing = policy.state_dict().keys() - what_fits(policy, weights)
    if not _is_of(stored, settings.channel):
        missing = {name for name in missing if not name.startswith("channel.")}
    if missing:
        first, *others = sorted(missing)
        more = f" and {len(others)} more" if others else ""
        raise ConfigError(
            f"checkpoint: {folder} is of another policy, or of another version of it: it lacks {first}{more}"
        )
    return env, policy.eval()


def _is_of(stored: checkpoint.Checkpoint, channel: Choice) -> bool:
    """Whether a team was trained with this channel, by these settings."""
    given = dict((stored.settings or {}).get("channel", {}))
    return given.pop("name", None) == channel.name and CHANNELS.check(channel.name, given) == channel.settings


def _check_widths(now: TeamSpec, trained: TeamSpec, settings: Experiment) -> None:
    """Raise `ConfigError` where a team cannot play in another world: what the policy sees or does has another width."""
    widths = {
        "an observation is {} numbers wide": (_dense_size(trained), _dense_size(now)),
        "an agent has {} actions": (trained.num_actions, now.num_actions),
        "actions are {}": (_kind_of_actions(trained), _kind_of_actions(now)),
    }
    asked = [what for name, what in _BY_SLOT.items() if getattr(settings.policy.settings, name, False)]
    widths |= dict.fromkeys(asked, (trained.num_agents, now.num_agents))
    changed = [f"{what.format(new)}, not {old} as in training" for what, (old, new) in widths.items() if old != new]
    if changed:
        raise ConfigError(f"env: this team cannot play {now.name} {now.setting}: {'; '.join(changed)}")


def _kind_of_actions(spec: TeamSpec) -> str:
    return "discrete" if spec.action_bounds is None else "points between {} and {}".format(*spec.action_bounds)


def _dense_size(spec: TeamSpec) -> int:
    return spec.observation_size if spec.indexed is None else spec.indexed.width


def _sizes(policy: TeamPolicy) -> dict[str, int]:
    """How many numbers training sets: in all of the policy, and of them in the channel."""
    channel = policy.quantiser
    besides = channel.parameter_count - sum(parameter.numel() for parameter in channel.parameters())
    whole = sum(parameter.numel() for parameter in policy.parameters()) + besides
    return {"parameters": whole, "channel_parameters": channel.parameter_count}


def evaluate_run(
    run: Run,
    settings: Experiment,
    *,
    episodes: int | None = None,
    seed: int | None = None,
    watch: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """The summary of a run's last checkpoint: figures under evaluation/, greedy/, shuffled/, floor/ and ceiling/.

    Sampled actions are the headline; beside them stand the likeliest ones, and, where there is talk, a team that hears
    the messages of other episodes. All play the same worlds. ``no_evidence`` says in sentences why the numbers are no
    evidence, if they are not (see `marlcomm.analysis.evidence`).
    """
    folder, trained = run.last_checkpoint(), run.experiment()
    env, policy = load_team(settings, folder, trained=trained)
    counters = checkpoint.read(folder).counters
    episodes = settings.evaluation.episodes if episodes is None else episodes
    seed = settings.seed if seed is None else seed
    fitting, stream = settings.evaluation, settings.evaluation.stream
    clock = time.perf_counter()
    summary: dict[str, Any] = {
        "name": settings.name,
        "seed": settings.seed,
        "env": settings.env.name,
        "setting": env.spec.setting,
        "policy": settings.policy.name,
        "channel": settings.channel.name,
        "channel_settings": settings.channel.settings.model_dump(mode="json"),
        **_sizes(policy),
        "algorithm": settings.algorithm.name,
        "checkpoint": folder.name,
        "env_steps": counters["env_steps"],
        "training_seconds": round(counters["seconds"], 3),
        "core_seconds": round(counters["core_seconds"], 3),
        "trained": trained.run.done(counters["env_steps"], counters["seconds"]),
        "episodes": episodes,
        "evaluation_seed": seed,
        "stream": stream,
        **run.origin(),
        "evaluated_on": here(settings),
    }
    summary["no_evidence"] = shortcomings(summary)
    if env.spec.card is not None and "silent" in env.spec.card:
        summary["silent"] = env.spec.card["silent"]
    watch("what is said in training")
    code = frozen_code(env, policy, seed, fitting.code_episodes, learned_prior=fitting.learned_prior)
    summary["code"] = code.digest
    if code.links is not None:
        summary["stream_tables"] = code.links.tables.digest
    watch("sampled actions")
    groups = {"evaluation": evaluate(env, policy, seed, episodes, stream=stream, code=code)}
    watch("greedy actions")
    groups["greedy"] = evaluate(env, policy, seed, episodes, stream=stream, greedy=True, code=code)
    if policy.channel.carries and env.worlds_at_once != 1 and episodes > 1:
        watch("messages of other episodes")
        groups["shuffled"] = evaluate_shuffled(env, policy, seed, episodes, stream=stream)
    for group, script in (("floor", env.spec.floor), ("ceiling", env.spec.ceiling)):
        if script is not None:
            watch(f"the {group}, {script}")
            summary[group] = script
            groups[group] = evaluate_script(env, env.scripts()[script], seed, episodes, stream=stream)
    env.close()
    summary["evaluation_seconds"] = round(time.perf_counter() - clock, 1)
    for group, figures in groups.items():
        summary |= {f"{group}/{name}": value for name, value in figures.items()}
    return summary
