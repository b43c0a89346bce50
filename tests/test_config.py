"""Registry and config: what is wrong is named, with its key, its value and the nearest right one."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from marlcomm import config
from marlcomm.config import experiment, merge, read
from marlcomm.registry import TABLES, ConfigError, Row, Settings, Table, nearest, validate


def error(data):
    with pytest.raises(ConfigError) as caught:
        experiment(data)
    return str(caught.value)


def test_nothing_given_is_a_complete_experiment():
    default = experiment({})
    assert (default.env.name, default.policy.name, default.channel.name) == ("traffic_junction", "transformer", "ddcl")
    assert experiment(default.as_data()) == default


@pytest.mark.parametrize("group", TABLES)
def test_every_registered_name_is_accepted_and_loads(group):
    for name, row in TABLES[group].rows.items():
        needed = {"maker": "somebody.elses:environment"} if name == "pettingzoo" else {}
        assert getattr(experiment({group: {"name": name, **needed}}), group).name == name
        assert row.summary
        assert isinstance(row.load(), type)
        for field in row.settings_model().model_fields.values():
            assert field.description  # one sentence for every knob


WRONG = [
    ({"chanel": {}}, "chanel: unknown key; did you mean 'channel'?"),
    ({"channel": {"name": "vqq"}}, "channel.name: unknown channel 'vqq'; did you mean 'vq'?"),
    ({"channel": {"delt": 0.2}}, "channel.delt: unknown key (value 0.2); did you mean 'delta'?"),
    ({"channel": {"delta": "wide"}}, "channel.delta: got 'wide', wanted a number"),
    ({"channel": {"delta": "0.5"}}, "channel.delta: got '0.5', wanted a number"),
    ({"channel": {"delta": True}}, "channel.delta: got True, wanted a number"),
    ({"channel": {"delta": float("inf")}}, "channel.delta: got inf, wanted a finite number"),
    ({"run": {"worlds": True}}, "run.worlds: got True, wanted an integer"),
    ({"seed": True}, "seed: got True, wanted an integer"),
    ({"policy": {"agent_identity": "yes"}}, "policy.agent_identity: got 'yes', wanted true or false"),
    (
        {"name": "my run"},
        "then letters, digits, dots, dashes and underscores (nearest: my_run)",
    ),
    ({"channel": {"delta": -1}}, "channel.delta: got -1, wanted greater than 0"),
    ({"channel": "vq"}, "channel: got 'vq', wanted a group of keys; did you mean channel.name=vq?"),
    ({"channel": ["vq"]}, "channel: got ['vq'], wanted a group of keys"),
    ({"run": 5}, "run: got 5, wanted a group of keys"),
    ({"env": {"difficulty": "esy"}}, "env.difficulty: got 'esy', wanted 'easy', 'medium' or 'hard'"),
    (
        {"env": {"curriculum": {"start": 1}}},
        "env.curriculum.start: unknown key (value 1); did you mean 'start_epoch'?",
    ),
    (
        {"env": {"curriculum": {"start_epoch": 9, "end_epoch": 3}}},
        "env.curriculum: got {'start_epoch': 9, 'end_epoch': 3}, wanted end_epoch 3 must be greater than start_epoch 9",
    ),
    (
        {"env": {"add_rate": 0.1, "curriculum": {}}},
        "env: a curriculum must rise, but curriculum.first_rate is 0.1 and add_rate, where it ends, 0.1",
    ),
    ({"env": {3: 4}}, "env: key 3 is no text; known: difficulty"),
    ({"policy": {"heads": 3}}, "policy: heads 3 must divide width 64"),
    ({"policy": {"message_size": None}}, "policy: message_size must be a number for the transformer policy"),
    (
        {"channel": {"name": "vq", "segments": 3}},
        "channel.segments: got 3, wanted a divisor of policy.message_size 8 (nearest: 2)",
    ),
    ({"run": {"worlds": 511}}, "run.worlds: got 511, wanted a multiple of 2"),
    ({"run": {"worlds": 500}, "resources": {"num_env_runners": 3}}, "run.worlds: got 500, wanted a multiple of 3"),
    (
        {"resources": {"num_learners": 3}},
        "run.worlds: got 128, wanted a multiple of 6 = learners (3) x algorithm.num_minibatches (2) (nearest: 126)",
    ),
    ({"seed": -1}, "seed: got -1, wanted greater than or equal to 0"),
    ({"name": "../up"}, "name: got '../up', wanted"),
    ({"imports": ["no_such_module"]}, "imports: cannot import 'no_such_module'"),
    ({"imports": [""]}, "imports: got '', wanted the name of a module"),
    *[
        (
            {"algorithm": {"entropy_coeff": value}},
            f"algorithm.entropy_coeff: got {value!r}, wanted a number of at least",
        )
        for value in ([[5, 1], [2, 1]], [[0, 1]], [[0, 1], [5, -1]], "much", -1, [1, 2], True)
    ],
    *[
        ({"algorithm": {"episodes": value}}, f"algorithm.episodes: got {value!r}, wanted whole numbers of at least 1")
        for value in (0, 1.5, [[0, 1], [9, 0]])
    ],
    *[
        ({"algorithm": {"episodes": value}}, f"algorithm.episodes: got {value!r}, wanted a number of at least 0")
        for value in ([[0, 2]], True)
    ],
]


@pytest.mark.parametrize(("data", "words"), WRONG, ids=str)
def test_what_is_wrong_is_named(data, words):
    assert words in error(data)


def test_all_errors_are_told_at_once():
    lines = error({"channel": {"delt": 1}, "policy": {"name": "transfomer"}, "runn": {}}).splitlines()
    assert len(lines) == 3


def test_another_name_drops_the_files_keys_and_says_so():
    data = {"channel": {"name": "ddcl", "delta": 0.5, "rate_weight": 0.1}, "policy": {"width": 16}}
    merged, notes = merge(data, ["channel.name=vq", "channel.codebook_size=64"])
    assert merged["channel"] == {"name": "vq", "codebook_size": 64}
    assert notes == ["channel.name=vq: the file's channel.delta, channel.rate_weight no longer apply"]
    assert experiment(merged).channel.settings.codebook_size == 64
    same, notes = merge(data, ["channel.name=ddcl", "channel.delta=0.25"])
    assert same["channel"] == {"name": "ddcl", "delta": 0.25, "rate_weight": 0.1}
    assert notes == []


def test_a_key_of_the_old_type_on_the_same_command_line_is_an_error():
    merged, _ = merge({"channel": {"name": "ddcl"}}, ["channel.name=vq", "channel.delta=1"])
    assert "channel.delta: unknown key" in error(merged)


def test_overrides_do_not_hide_a_group_that_is_none():
    with pytest.raises(ConfigError, match="channel: got 5, wanted a group of keys"):
        merge({"channel": 5}, ["channel.name=vq"])


@pytest.mark.parametrize("override", ["channel", "channel.name", "=", "a=b=[", "channel.delta=[1"])
def test_malformed_overrides_are_named(override):
    with pytest.raises(ConfigError):  # noqa: PT012 (one of the two refuses)
        merged, _ = merge({}, [override])
        experiment(merged)


def test_numbers_schedules_and_nulls_survive_the_command_line():
    merged, _ = merge(
        {}, ["algorithm.lr=1e-4", "algorithm.entropy_coeff=[[0,0.1],[1000,0]]", "algorithm.grad_clip=null"]
    )
    settings = experiment(merged).algorithm.settings
    assert settings.lr == 1e-4
    assert settings.entropy_coeff == [(0, 0.1), (1000, 0)]
    assert settings.grad_clip is None


def test_files(tmp_path):
    good = tmp_path / "team.yaml"
    good.write_text("channel:\n  name: gumbel\n  tokens: 2\n")
    data, _ = read(good)
    settings = experiment(data)
    assert settings.name == "team"
    again = tmp_path / "again.yaml"
    again.write_text(settings.as_yaml())
    assert experiment(read(again)[0]) == settings
    with pytest.raises(ConfigError, match=r"no file '.*temm.yaml'; did you mean '.*/team.yaml'"):
        read(tmp_path / "temm.yaml")
    for text, words in (("a: [1", "is not YAML|cannot read"), ("- 1\n- 2\n", "must hold keys and values")):
        bad = tmp_path / "bad.yaml"
        bad.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read(bad)


def test_shipped_configs_are_valid(pytestconfig):
    files = sorted((pytestconfig.rootpath / "configs").glob("*.yaml"))
    assert files
    for file in files:
        experiment(read(file)[0])


def test_the_teams_of_shipped_studies_are_valid(pytestconfig, tmp_path):
    from marlcomm.analysis.study import Study

    files = sorted((pytestconfig.rootpath / "studies").glob("*.yaml"))
    assert files
    for study in (Study.read(file, tmp_path) for file in files):
        settings = study.settings
        later = [(*settings.teams[team.of], *team.changes) for team in settings.afterwards.values()]
        for changes in (*settings.teams.values(), *later):
            experiment(read(study.config, [*settings.changes, *changes])[0])


class Knobs(Settings):
    size: int = Field(1, description="a number")


def test_registering():
    table = Table("thing", "things", "marlcomm.registry:Settings")

    @table.register("one", settings=Knobs)
    class One:
        """The first of its kind.

        More words.
        """

    assert table.row("one").load() is One
    assert table.row("one").summary == "The first of its kind."
    assert table.check("one", {"size": 3}).size == 3
    table.register("one", settings=Knobs)(One)  # imported twice: no change
    with pytest.raises(ConfigError, match=r"thing 'one' is registered already, by .*One: choose another name"):
        table.register("one")(type("Other", (), {}))
    with pytest.raises(ConfigError, match=r"thing.size: got 'x', wanted an integer"):
        table.check("one", {"size": "x"})
    table.add(Row("lazy", "math:sqrt", Knobs, "not imported until it is used"))
    assert table.row("lazy").load()(9) == 3


def announce(folder, monkeypatch, target):
    """Install a distribution that announces a thing named "found"."""
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[marlcomm.things]\nfound = {target}\n")
    monkeypatch.syspath_prepend(folder)


def test_installed_packages_announce_their_things(tmp_path, monkeypatch):
    table = Table("thing", "things", "marlcomm.registry:Settings")
    (tmp_path / "their_module.py").write_text(
        "import builtins\nFound = builtins.REGISTER('found')(type('Found', (), {}))\n"
    )
    monkeypatch.setattr("builtins.REGISTER", table.register, raising=False)
    announce(tmp_path, monkeypatch, "their_module:Found")
    assert "their_module" not in sys.modules
    assert table.row("found").load().__name__ == "Found"
    with pytest.raises(ConfigError, match="did you mean 'found'"):
        table.row("foumd")


def test_an_announcement_that_leads_nowhere_is_named(tmp_path, monkeypatch):
    table = Table("thing", "things", "marlcomm.registry:Settings")
    announce(tmp_path, monkeypatch, "no_such_module:Found")
    with pytest.raises(ConfigError, match="thing 'found': cannot import no_such_module:Found: No module named"):
        table.row("other")
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text("[marlcomm.things]\nfound = math:sqrt\n")
    with pytest.raises(ConfigError, match="thing 'found': math:sqrt registers no thing of that name"):
        table.discover()


def test_hints():
    assert nearest("delt", ["delta", "limit"]) == "did you mean 'delta'? (known: delta, limit)"
    assert nearest("zzz", ["delta"]) == "known: delta"
    assert nearest("zzz", []) == "no keys are known here"
    with pytest.raises(ConfigError, match=r"^size: got"):
        validate(Knobs, {"size": []}, "")


keys = st.sampled_from(["name", "delta", "segments", "worlds", "heads", "lr", "difficulty", "curriculum", "x"])
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 600), st.floats(allow_nan=True), st.sampled_from(["vq", "easy", ""])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
groups = st.sampled_from([*config.GROUPS, "run", "resources", "evaluation", "seed", "imports", "y"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(groups, values, max_size=4))
def test_any_data_is_accepted_or_refused_with_words(data):
    try:
        checked = experiment(data)
    except ConfigError as refusal:
        assert str(refusal)  # noqa: PT017 (either way is fine, a traceback is not)
        return
    assert experiment(checked.as_data()) == checked


def test_a_bad_config_is_refused_before_torch_and_ray_are_imported():
    script = (
        "import sys\n"
        "from marlcomm.config import experiment\n"
        "from marlcomm import cli, registry\n"
        "try: experiment({'channel': {'name': 'vq', 'segments': 3}})\n"
        "except registry.ConfigError as error: print(error)\n"
        "print(sorted({'torch', 'ray', 'gymnasium', 'pettingzoo', 'tensorboard'} & sys.modules.keys()))\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "channel.segments: got 3" in out
    assert out.endswith("[]\n")


def test_a_bare_import_imports_nothing():
    script = "import sys, marlcomm; print(sorted({'torch', 'ray', 'numpy', 'pydantic'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("room", ["envs", "channels", "algorithms"])
def test_the_linked_rooms_refuse_a_second_name(room, pytestconfig):
    script = f"import {room}"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=pytestconfig.rootpath)
    assert out.returncode == 1
    assert f"ImportError: import it as marlcomm.{room}" in out.stderr
