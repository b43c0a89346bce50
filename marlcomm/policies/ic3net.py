"""IC3Net (Singh et al. 2019): agents with an LSTM hear the mean of what the others remember, behind learned gates.

Departures from the published code: float32; a shut gate mutes but does not deafen; the mean is over the senders that
were heard, not over the living (whoever hears a mean need not be told who is alive); memory is wiped where a slot gets
a new agent; with `force_gate_open` no gate is sampled or trained at all (the published code adds the gradient noise of
a gate that nothing obeys). `legacy` undoes all but the first, and the wiping, which is the world's (`env.legacy`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel
from marlcomm.envs.base import TeamSpec
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.memory import AgentLSTM, AgentRNN, Memory
from marlcomm.policies.settings import IC3NetSettings


class IC3Net(TeamPolicy):
    """One talk a step: the message is the hidden state of the step before, so talk is one step late.

    The gate is an extra action: its choice at a step decides whether the hidden state of that step is sent at the
    next. A new agent begins with a shut gate and nothing to say.

    Without memory (`core: feedforward`) the features of the present observation take the hidden state's place: as in
    CommNet's simplest form, one talk between two layers. With several rounds the core runs after each, on the same
    features, and what it comes to is said next.
    """

    settings: IC3NetSettings

    def __init__(self, spec: TeamSpec, settings: IC3NetSettings, channel: Channel) -> None:
        super().__init__(spec, settings, channel)
        hidden = settings.hidden_size
        self.gated = settings.gated
        self.draws_gate = self.gated or settings.train_forced_gate
        self.rounds = settings.rounds
        self.recurrent = settings.core != "feedforward"
        self.encoder = self.input_layer(hidden)
        self.to_message = nn.Identity() if settings.message_size is None else nn.Linear(hidden, settings.message_size)
        self.from_message = nn.Linear(settings.message_width, hidden)
        self.core = AgentLSTM(hidden, hidden) if settings.core == "lstm" else AgentRNN(hidden)
        self.action_head = self.action_layer(hidden)
        self.gate_head = nn.Linear(hidden, 2) if self.draws_gate else None
        self.value_head = nn.Linear(hidden, 1)

    def see(self, observations: Tensor) -> Tensor:
        features: Tensor = self.encoder(observations)
        return features if self.recurrent else torch.tanh(features)

    def begin(self, worlds: int) -> Memory:
        return self.core.begin(worlds, self.spec.num_agents) if self.recurrent else {}

    def _before(self, features: Tensor, memory: Memory) -> Memory:
        """What an agent knows before it hears."""
        return memory or {"hidden": features}

    def say(self, features: Tensor, memory: Memory) -> Tensor:
        message: Tensor = self.to_message(self._before(features, memory)["hidden"])
        return message

    def audible(self, spoke: Tensor) -> Tensor:
        audible = super().audible(spoke)
        if not self.settings.deaf_when_silent:
            return audible
        # Whom the world lets only listen is no reason to be deaf: the published worlds have nobody of that kind.
        return audible & (spoke | ~self._speakers).unsqueeze(-1)

    def hear(
        self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor
    ) -> tuple[Tensor, Memory]:
        if self.settings.empty_slots_run:  # nothing is to be heard in an empty slot
            audible = audible & alive.unsqueeze(-1)
        if self.settings.mean_of_living:
            read = (audible / (alive.sum(-1) - 1).clamp(min=1).view(-1, 1, 1)).to(received.dtype) @ received
        else:
            read = self.gather(features, memory, received, audible)
        return self.take(features, memory, read, alive)

    def consider(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor) -> Memory:
        states, memory = self.hear(features, memory, received, audible, alive)
        return memory or {"hidden": states}

    def gather(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor) -> Tensor:
        weights = audible / audible.sum(-1, keepdim=True).clamp(min=1)
        return weights.to(received.dtype) @ received

    def take(self, features: Tensor, memory: Memory, read: Tensor, alive: Tensor) -> tuple[Tensor, Memory]:
        heard = self.from_message(read)
        running = torch.ones_like(alive) if self.settings.empty_slots_run else alive
        memory = self.core(features + heard, self._before(features, memory), running)
        return memory["hidden"], memory if self.recurrent else {}

    def decide(self, states: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        gate_logits = None if self.gate_head is None else self.gate_head(states)
        return self.action_head(states), gate_logits, self.value_head(states).squeeze(-1)
