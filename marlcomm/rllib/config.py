"""The config of teams that talk: RLlib's, with what a team adds and what it cannot honour."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch

from marlcomm.channels.settings import ChannelSettings
from marlcomm.config import ResourceSettings, RunSettings, check_seed, import_plugins
from marlcomm.objectives.entropy import EntropyTarget
from marlcomm.policies.settings import PolicySettings
from marlcomm.policies.team import TeamNames
from marlcomm.policies.values import ValueSettings
from marlcomm.registry import CHANNELS, POLICIES, ConfigError, nearest, validate
from marlcomm.rllib.compat import Algorithm, AlgorithmConfig, NotProvided, RLlibCallback, RLModuleSpec
from marlcomm.rllib.learner import TeamLearner
from marlcomm.rllib.module import TeamRLModule
from marlcomm.rllib.on_policy import OnPolicyLearner
from marlcomm.rllib.runner import TeamEnvRunner
from marlcomm.rllib.settings import OnPolicyTraining, Training

# Settings of RLlib that the team path does not honour, and why. Changing one raises.
_NOT_HONOURED = {
    "rollout_fragment_length": "a rollout is one whole episode of every world",
    "batch_mode": "a rollout is one whole episode of every world",
    "train_batch_size": "a round holds num_env_runners x num_envs_per_env_runner episodes",
    "_train_batch_size_per_learner": "a round holds num_env_runners x num_envs_per_env_runner episodes",
    "minibatch_size": "use training(num_minibatches=...)",
    "shuffle_batch_per_epoch": "worlds are always permuted, by a key of seed, round and epoch",
    "observation_filter": "the policy sees observations as they are",
    "clip_rewards": "use training(reward_scale=...)",
    "policy_mapping_fn": "a team is one module: use communication(policy=...)",
    "policies_to_train": "a team is one module",
    "_env_to_module_connector": "there are no connectors on the team path",
    "_module_to_env_connector": "there are no connectors on the team path",
    "_learner_connector": "there are no connectors on the team path",
    "exploration_config": "actions are sampled from the policy",
    "explore": "actions are sampled from the policy",
    "_rl_module_spec": "use communication(policy=..., channel=...)",
    "model": "use communication(policy_config=..., channel_config=...)",
    "_model_config": "use communication(policy_config=..., channel_config=...)",
    "evaluation_num_env_runners": "short evaluations run in the training process",
    "evaluation_duration_unit": "evaluations are counted in episodes",
    "evaluation_parallel_to_training": "short evaluations run between updates",
    "evaluation_config": "short evaluations play the training's settings at the world's final difficulty",
    "custom_evaluation_function": "short evaluations encode and decode every message",
    "num_gpus_per_env_runner": "runners play on CPUs",
    "compress_observations": "rows travel as they are",
    "algorithm_config_overrides_per_module": "a team is one module",
    "ignore_env_runner_failures": "a round needs all its worlds; use restart_failed_env_runners",
    "num_aggregator_actors_per_learner": "rows go straight to the learners",
    "metrics_num_episodes_for_smoothing": "a figure is the mean over a round",
    "input_": "a team learns from its own worlds",
    "enable_rl_module_and_learner": "teams need the new API stack",
    "enable_env_runner_and_connector_v2": "teams need the new API stack",
    "create_local_env_runner": "the local runner meters and evaluates",
    "min_time_s_per_iteration": "an iteration is one round",
    "min_train_timesteps_per_iteration": "an iteration is one round",
    "min_sample_timesteps_per_iteration": "an iteration is one round",
}
# Hooks that nobody calls where whole batches of worlds are stepped at once.
_SILENT_HOOKS = (
    "on_episode_created",
    "on_episode_start",
    "on_episode_step",
    "on_episode_end",
    "on_environment_created",
    "on_sample_end",
    "on_evaluate_start",
    "on_evaluate_end",
    "on_env_runners_recreated",
)


class TeamConfig(AlgorithmConfig):
    """An RLlib config for teams that talk. A subclass names its settings and its objective.

    Setters store plain data, so `tune.grid_search` works inside them; `validate` checks everything.
    """

    settings_model: ClassVar[type[Training]] = OnPolicyTraining

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.env_runner_cls = TeamEnvRunner
        self.num_envs_per_env_runner = RunSettings().worlds
        self.seed = 0
        self.policy = "transformer"
        self.policy_config: dict[str, Any] = {}
        self.channel = "ddcl"
        self.channel_config: dict[str, Any] = {}
        self.imports: list[str] = []
        self.init_from: str | None = None
        self.log_dir: str | None = None
        self.sampling: str = RunSettings().sampling
        for name, value in self.settings_model().model_dump().items():
            setattr(self, name, value)
        # A worker that fails must not make the whole run wait a minute for its restart (RLlib's default).
        self.delay_between_env_runner_restarts_s = 1.0
        self.sample_timeout_s = ResourceSettings().sample_timeout
        # Runners keep nothing but weights. RLlib would wait for those that play ahead, to ask what they have.
        self.merge_env_runner_states = self.broadcast_env_runner_states = False
        self.torch_skip_nan_gradients = True  # our learners look once, at all of them; RLlib would at each, twice

    def communication(
        self,
        *,
        policy: str = NotProvided,
        policy_config: dict[str, Any] = NotProvided,
        channel: str = NotProvided,
        channel_config: dict[str, Any] = NotProvided,
        imports: Sequence[str] = NotProvided,
        init_from: str | os.PathLike[str] | None = NotProvided,
    ) -> Self:
        """How the team talks.

        Args:
            policy: name of a registered policy.
            policy_config: its settings; ``message_size`` is the width of the vector given to the channel.
            channel: name of a registered channel.
            channel_config: its settings.
            imports: modules that register things of your own; every worker imports them first.
            init_from: checkpoint of a trained team (``RUN/checkpoints/ROUND``), on a disk that every worker reads:
                start from its weights wherever name and shape are the same. None: start untrained.
        """
        if isinstance(imports, str):
            raise ConfigError(f"communication(imports=...): got {imports!r}, wanted a list: [{imports!r}]")
        given = {
            "policy": policy,
            "policy_config": policy_config,
            "channel": channel,
            "channel_config": channel_config,
            "imports": imports if imports is NotProvided else list(imports),
            "init_from": init_from if init_from in (NotProvided, None) else os.fspath(init_from),
        }
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def env_runners(self, *, sampling: str = NotProvided, **settings: Any) -> Self:
        """RLlib's settings of runners, and how they sample.

        Args:
            sampling: "synchronous", or "asynchronous": remote runners play a round while learners still learn from the
                one before.
            settings: RLlib's own.
        """
        super().env_runners(**settings)
        if sampling is not NotProvided:
            self.sampling = sampling
        return self

    def training(self, **settings: Any) -> Self:
        """The algorithm's settings (see its model in `marlcomm.algorithms.settings`), and RLlib's own."""
        ours = {name: settings.pop(name) for name in list(settings) if name in self.settings_model.model_fields}
        rllibs = inspect.signature(AlgorithmConfig.training).parameters
        for name in settings:
            if name not in rllibs or name in OnPolicyTraining.model_fields:  # what we honour is ours
                raise ConfigError(
                    f"training({name}=...): unknown setting; {nearest(name, self.settings_model.model_fields)}"
                )
        super().training(**settings)
        for name, value in ours.items():
            setattr(self, name, value)
        return self

    def logging(self, *, log_dir: str | os.PathLike[str]) -> Self:
        """Where TensorBoard events and metrics.jsonl go; by default Tune's trial folder, or RLlib's."""
        self.log_dir = str(log_dir)
        return self

    def validate(self) -> None:
        """Check everything. Raises `ConfigError` (a `ValueError`) that names the setting."""
        for name in ("env_config", "policy_config", "channel_config"):
            if not isinstance(given := getattr(self, name), Mapping):
                raise ConfigError(f"{name}: got {given!r}, wanted settings by their names")
        import_plugins(self.imports)
        self.team_names().check()
        settings = self.algorithm_settings()
        if not self.in_evaluation:  # RLlib changes its copy for evaluations
            self._refuse_what_is_not_honoured()
            policy = cast(PolicySettings, POLICIES.check(self.policy, self.policy_config))
            policy.check_training(self.channel_settings())
            settings.check_rows(self.num_worlds, self.num_learners, "num_env_runners x num_envs_per_env_runner")
            validate(RunSettings, {"sampling": self.sampling}, "env_runners")
            settings.check_sampling(self.sampling, self.num_env_runners, type(self).__name__.removesuffix("Config"))
        super().validate()

    def channel_settings(self) -> ChannelSettings:
        """The settings of the channel, checked."""
        return cast(ChannelSettings, CHANNELS.check(self.channel, self.channel_config))

    def _refuse_what_is_not_honoured(self) -> None:
        pristine = AlgorithmConfig()
        for name, reason in _NOT_HONOURED.items():
            if getattr(self, name) != getattr(pristine, name):
                raise ConfigError(f"{name.lstrip('_')}: not honoured for teams: {reason}")
        given = self.callbacks_class
        classes = given if isinstance(given, (list, tuple)) else [given]
        for hook in _SILENT_HOOKS:
            overridden = any(getattr(kind, hook) is not getattr(RLlibCallback, hook) for kind in classes)
            if overridden or getattr(self, f"callbacks_{hook}", None) is not None:
                raise ConfigError(f"callbacks: {hook} is not honoured for teams: use on_train_result")
        for name, given, ours in (
            ("env_runner_cls", self.env_runner_cls, TeamEnvRunner),
            ("learner_class", self.learner_class, TeamLearner),
        ):
            if not (isinstance(given, type) and issubclass(given, ours)):
                raise ConfigError(f"{name}: got {given!r}, wanted {ours.__name__} or a subclass of it")
        for name in ("num_env_runners", "num_learners"):
            if not isinstance(count := getattr(self, name), int) or count < 0:
                raise ConfigError(f"{name}: got {count!r}, wanted 0 or more")
        if not self.sample_timeout_s or self.sample_timeout_s < 0:
            raise ConfigError(f"sample_timeout_s: got {self.sample_timeout_s}, wanted seconds, more than 0")
        check_seed(self.seed)
        if self.is_multi_agent:
            raise ConfigError(
                "multi_agent: not honoured for teams: a team is one module, see communication(policy=...)"
            )

    @property
    def num_worlds(self) -> int:
        """Worlds of all runners together."""
        return cast(int, max(self.num_env_runners, 1) * self.num_envs_per_env_runner)

    def team_names(self) -> TeamNames:
        """Names and settings of the team's parts."""
        if not isinstance(self.env, str):
            raise ConfigError(
                f"environment: got {self.env!r}, wanted the name of a registered env, as in 'traffic_junction'"
            )
        return TeamNames(self.env, self.env_config, self.policy, self.policy_config, self.channel, self.channel_config)

    def algorithm_settings(self) -> Training:
        """The checked settings of the algorithm."""
        values = {name: getattr(self, name) for name in self.settings_model.model_fields}
        return cast(Training, validate(self.settings_model, values, "training"))

    def objective(self) -> Any:
        """What is kept of rollouts, and the loss of it; a subclass says which (`Objective`, `MADDPG`)."""
        raise NotImplementedError

    def value_settings(self) -> ValueSettings:
        """Who judges in training; a subclass may say somebody else than the policy."""
        return ValueSettings()

    def entropy_target(self) -> EntropyTarget | None:
        """What the entropy is to become, where its weight follows; None: the objective says the weight."""
        return None

    def make_optimizer(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of the settings; RLlib sets its learning rate."""
        settings = self.algorithm_settings()
        if settings.optimizer == "rmsprop":
            return torch.optim.RMSprop(parameters, alpha=settings.rmsprop_alpha, eps=settings.rmsprop_eps)
        if settings.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=1.0)
        return torch.optim.Adam(parameters, fused=True)  # one operation for all, not a dozen for each

    def build_learner_connector(self, *arguments: Any, **settings: Any) -> None:
        """None: RLlib's default ones would never be called, and each of them searches all modules for its caller."""

    def get_default_learner_class(self) -> type[TeamLearner]:
        return OnPolicyLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        team = self.team_names()
        config = {
            "team": vars(team),
            "seed": self.seed,
            "imports": list(self.imports),
            "init_from": self.init_from,
            "values": vars(self.value_settings()),
        }
        return RLModuleSpec(module_class=TeamRLModule, model_config=config)
