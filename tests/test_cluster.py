"""Clusters: which one a run joins, what travels there, and that a Ray of its own is nobody else's."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from commands import environment
from three_nodes import one_round

from marlcomm.algorithms.build import algorithm_config
from marlcomm.config import experiment, merge
from marlcomm.registry import ConfigError
from marlcomm.rllib import cluster as clusters

MEDIUM = [
    "env.difficulty=medium",
    "policy.hidden_size=16",
    "policy.message_size=4",
    "run.worlds=8",
    "run.evaluate_every=null",
    "algorithm.name=mappo",
    "algorithm.optimizer=sgd",
    "algorithm.lr=0.1",
    "algorithm.num_epochs=1",
    "algorithm.num_minibatches=1",
]


def settings(*changes):
    return experiment(merge({}, changes)[0])


@pytest.fixture
def started(monkeypatch):
    """What `ray.init` is asked for, without starting anything."""
    asked = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "")
    monkeypatch.delenv("RAY_AUTH_MODE")  # what is set from now on is taken back in the end
    monkeypatch.setattr(ray, "init", lambda **settings: asked.append(settings))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return asked


@pytest.fixture
def head():
    """An address where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("there", [True, False])
def test_a_cluster_is_shown_the_users_token(started, head, monkeypatch, tmp_path, there):
    """`ray start` asks for it, and `ray.init` shows none unless it is told to."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if there:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
    run(f"cluster.address={head}")
    assert os.environ.get("RAY_AUTH_MODE") == ("token" if there else None)


def run(*changes):
    with clusters.running_ray(settings(*changes)):
        pass


# --- several nodes ----------------------------------------------------------------------------------------------------


def test_three_nodes_play_and_learn_what_one_process_does(cluster, built, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "only_here.py").write_text("import marlcomm\n")
    out = tmp_path / "three.npz"
    command = [sys.executable, str(Path(__file__).with_name("three_nodes.py")), str(out), *MEDIUM]
    path = os.pathsep.join([str(tmp_path / "code"), os.environ["PYTHONPATH"]])
    done = subprocess.Popen(
        command, env=environment() | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    here = one_round(built(algorithm_config(settings(*MEDIUM))))
    said, _ = done.communicate(timeout=240)
    assert done.returncode == 0, said
    workers = json.loads(Path(f"{out}.json").read_text())
    assert len({node for node, _ in workers}) == 3
    assert [sent for _, sent in workers] == [["marlcomm", "only_here"]] * 4
    with np.load(out) as there:
        assert there.keys() == here.keys()
        for name, value in here.items():
            drawn = name.startswith("row/") and (value.dtype != np.float32 or name == "row/observations")
            alike = np.array_equal if drawn else lambda *pair: np.allclose(*pair, rtol=0, atol=1e-5)
            assert alike(there[name], value), name


# --- which Ray --------------------------------------------------------------------------------------------------------


def test_a_ray_of_the_runs_own(started):
    run("resources.num_env_runners=1")
    assert started == [{"address": "local", "logging_level": 40, "num_cpus": 1, **clusters.OWN_RAY}]


def test_a_cluster_is_joined(started, head, monkeypatch):
    run(f"cluster.address={head}")
    monkeypatch.setenv("RAY_ADDRESS", head)
    run()
    run("cluster.address=auto")  # a setting counts more than the environment
    assert [asked["address"] for asked in started] == [head, head, "auto"]
    assert not any("num_cpus" in asked for asked in started)


def test_where_nobody_answers(started, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(
        ConfigError, match=rf"cluster\.address: nobody answers at '{nobody}' .*wanted the head of a Ray"
    ):
        run(f"cluster.address={nobody}")
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    with pytest.raises(ConfigError, match="RAY_ADDRESS: nobody answers"):
        run()


@pytest.mark.parametrize(
    "error", [ConnectionError("Could not find any running Ray"), RuntimeError("Version mismatch: Ray: 2.59.0")]
)
def test_what_ray_refuses_is_told(started, head, monkeypatch, error):
    def refuse(**settings):
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError, match=rf"cluster\.address: cannot join a Ray cluster at '{head}': {error}"):
        run(f"cluster.address={head}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("cluster.address=ray://head:10001", "cluster.address: got 'ray://head:10001', wanted .*ray job submit"),
        ("cluster.address=head", "cluster.address: got 'head', wanted .*null, auto or HOST:PORT, as in head:6379"),
        ("cluster.adress=auto", "cluster.adress: unknown key .*did you mean 'address'"),
        ("clusters.address=auto", "clusters: unknown key; did you mean 'cluster'"),
    ],
)
def test_wrong_addresses_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        settings(change)


def test_a_cluster_counts_its_own_cpus():
    with pytest.raises(ConfigError, match=r"resources\.num_cpus: got 2, wanted null: the cluster at cluster\.address"):
        run("cluster.address=auto", "resources.num_cpus=2")


def test_code_is_sent_where_it_is_asked_for(started, tmp_path, monkeypatch):
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "__init__.py").write_text("")
    (tmp_path / "things" / "worlds.py").write_text("")
    (tmp_path / "a_channel.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    run("cluster.ship_code=true", "imports=[things.worlds,a_channel,pydantic]")
    package = Path(clusters.__file__).parent.parent
    sent = started[0]["runtime_env"]["py_modules"]
    assert sent == [str(package), str(tmp_path / "things"), str(tmp_path / "a_channel.py")]


# --- who can reach it -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux who listens where")
def test_a_ray_of_the_runs_own_listens_to_this_machine_only(cluster):
    ours = descendants(os.getpid())
    heard = {address for process in ours for address in listening(process)}
    assert heard
    assert heard <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def descendants(process):
    """A process and all that it started."""
    children = Path(f"/proc/{process}/task/{process}/children")
    below = children.read_text().split() if children.exists() else []
    return [process, *(one for child in below for one in descendants(int(child)))]


def listening(process):
    """The addresses that a process listens at, as Linux writes them."""
    found = set()
    try:
        sockets = {os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir()}
    except OSError:  # it has ended, or a file was closed meanwhile
        return found
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                found.add(local.partition(":")[0])
    return found


def test_a_ray_that_is_imported_too_early_is_told(started):
    with pytest.raises(ConfigError, match=r"cluster\.loopback: got False, but ray is imported already .*CLUSTER=1"):
        run("cluster.loopback=false")
    run()
    assert os.environ[clusters.CLUSTERS] == "0"


@pytest.mark.parametrize(
    ("cores", "workers", "told", "threads"),
    [(8, 0, "", 8), (8, 3, "", 5), (8, 3, "1", 1), (8, 3, "6", 5), (2, 4, "", 1)],
)
def test_threads_are_those_of_free_cores_and_of_omp_num_threads(monkeypatch, cores, workers, told, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert clusters._own_threads(workers) == threads
