"""Small teams from the tables, as data: quick to build, and with everything that is learned in use."""

from marlcomm.registry import TABLES

WORLDS = 16
SMALL = {  # of whoever has such a setting; and what everything learned needs in order to be learned
    "policy": {"hidden_size": 16, "message_size": 8, "key_size": 4, "width": 8, "heads": 2, "candidate_size": 8}
    | {"agent_identity": True},
    "channel": {"tokens": 2, "samples": 4, "sender_size": 8, "decoder_size": 8, "entropy_weight": 0.1},
    "algorithm": {"num_epochs": 1, "num_minibatches": 1, "critic_size": 8}
    | {"learning_starts": 0, "env_steps_per_update": 4 * WORLDS, "batch_size": 64, "tau": 0.5},
}
# Three agents: whoever hears one only has nothing to attend to.
RELAY = {"name": "relay", "agents": 3}
SMALL_WORLDS = {  # of several steps each, for memory to be learned
    "communicating_goal": {"horizon": 4},
    "ghost_run": {"horizon": 4, "drones": 2, "view": 1, "size": 7},
    "lewis_game": {"training_rounds": 16, "validation_rounds": 16, "distractors": 7, "attributes": 3, "steps": 2},
    "particle_spread": {"horizon": 4, "actions": "continuous"},
    "pettingzoo": {"maker": "foreign_worlds:Leavers", "copies": WORLDS},
    "predator_prey": {"horizon": 4},
    "traffic_junction": {"add_rate": 0.4},
}


DEFAULT = {"policy": "transformer", "channel": "ddcl", "algorithm": "mappo"}


def built_in(table):
    """Names that no test has registered."""
    return [name for name, row in table.rows.items() if isinstance(row.target, str)]


def small(kind, name):
    """The settings that make a thing of a table small."""
    known = TABLES[kind].row(name).settings_model().model_fields
    return {key: value for key, value in SMALL[kind].items() if key in known}


def choice(kind, name, **settings):
    """A thing of a table, small, as data."""
    return {"name": name} | small(kind, name) | settings


def team(env=RELAY, **choices):
    """An experiment as data."""
    given = {kind: choice(kind, **choices.get(kind, {"name": name})) for kind, name in DEFAULT.items()}
    return {"seed": 1, "env": env, "run": {"worlds": WORLDS}, "imports": ["tiny_world"], **given}
