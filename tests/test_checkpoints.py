"""Checkpoints on disk: what was written is read, and what was not is refused, whatever happened to the bytes."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marlcomm
from marlcomm import checkpoint
from marlcomm.config import experiment
from marlcomm.registry import ConfigError

PARTS = {
    "weights": {"policy.a": np.arange(12, dtype=np.float32).reshape(3, 4), "policy.b": np.full((), 0.1)},
    "optimizer": {"default": {"state": {0: {"step": 3, "moments": (np.zeros(4), [1.5, None, True])}}}},
    "replay-000003": {"rewards": np.arange(4, dtype=np.int16), "alive": np.array([True, False])},
    "replay-000004": {"rewards": np.arange(4, 8, dtype=np.int16), "alive": np.array([False, False])},
}
COUNTERS = {"round": 5, "seconds": 0.1, "entropy_weight": {"present": float("inf")}}
FILES = ["state.json", *(f"{name}.safetensors" for name in PARTS)]


def content(folder):
    """Everything that is in a checkpoint, as text that is the same only where all bits are."""
    stored = checkpoint.read(folder)
    parts = {name: stored.read(name) for name in stored.parts}
    return repr((stored.counters, stored.settings)) + repr(exact(parts))


def exact(node):
    if isinstance(node, np.ndarray):
        return (node.dtype.str, node.shape, node.tobytes())
    if isinstance(node, dict):
        return {key: exact(value) for key, value in node.items()}
    return type(node)(map(exact, node)) if isinstance(node, (list, tuple)) else node


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two checkpoints of a run, the second of other numbers."""
    root = tmp_path_factory.mktemp("checkpoints")
    data = experiment({}).as_data()
    checkpoint.write(root / "first", COUNTERS, data, **PARTS)
    more = dict(PARTS)
    more["weights"] = {"policy.a": np.zeros((3, 4), np.float32), "policy.b": np.full((), 0.1)}
    more["replay-000004"] = checkpoint.Stored(root / "first")
    checkpoint.write(root / "second", COUNTERS | {"round": 6}, data, **more)
    return root


def test_what_was_written_is_read(written):
    stored = checkpoint.read(written / "first")
    assert exact({name: stored.read(name) for name in stored.parts}) == exact(PARTS)
    assert stored.counters == COUNTERS
    assert experiment(stored.settings) == experiment({})
    assert stored.policy().keys() == {"a", "b"}
    assert exact(checkpoint.read(written / "second").read("replay-000004")) == exact(PARTS["replay-000004"])
    assert len(stored.trees) == 3  # both rounds of the replay have one structure


def mutated(draw, blob):
    """Bytes with some bits flipped, cut short, lengthened, or with a piece zeroed or moved."""
    place = draw(st.integers(0, len(blob) - 1))
    kind = draw(st.sampled_from(["flip", "cut", "longer", "zero", "move"]))
    if kind == "flip":
        changed = bytearray(blob)
        for at in [place, *draw(st.lists(st.integers(0, len(blob) - 1), max_size=3))]:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed)
    if kind == "cut":
        return blob[:place]
    if kind == "longer":
        return blob + draw(st.binary(min_size=1, max_size=9))
    end = min(place + draw(st.integers(1, 64)), len(blob))
    piece = bytes(end - place) if kind == "zero" else blob[place:end][::-1]
    return blob[:place] + piece + blob[end:]


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_change_nothing(written, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged") / "first"
    shutil.copytree(written / "first", folder)
    file = folder / data.draw(st.sampled_from(FILES))
    if data.draw(st.booleans()):
        file.write_bytes(mutated(data.draw, file.read_bytes()))
    else:  # the file of another checkpoint, or of another part
        other = data.draw(st.sampled_from(["first", "second"]))
        shutil.copy(written / other / data.draw(st.sampled_from(FILES)), file)
    try:
        found = content(folder)
    except ConfigError as error:
        assert str(error).startswith("checkpoint: ")  # noqa: PT017 (either way is fine)
        return
    finally:
        shutil.rmtree(folder)
    assert found == content(written / "first")


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(written, tmp_path, file):
    folder = shutil.copytree(written / "first", tmp_path / "copy")
    (folder / file).unlink()
    with pytest.raises(ConfigError, match=f"checkpoint: (cannot read|none in) .*{file}"):
        content(folder)


def rewritten(folder, written, **changes):
    """A checkpoint whose state says something else, under a checksum that is right."""
    shutil.copytree(written / "first", folder)
    state = json.loads((folder / "state.json").read_text()) | changes
    state = {key: value for key, value in state.items() if value is not None and key != "checksum"}
    (folder / "state.json").write_text(json.dumps(state | {"checksum": checkpoint.sha256(json.dumps(state).encode())}))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3, "marlcomm": "9.1"}, f"format 3, of marlcomm 9.1; marlcomm {marlcomm.__version__} reads formats"),
        ({"format": "2"}, "it has format '2'"),
        ({"format": None}, "none of marlcomm's: it lacks 'format'"),
        ({"counters": None}, "none of marlcomm's: it lacks 'counters'"),
        ({"counters": 5}, "cannot read"),
        ({"settings": "none"}, "cannot read"),
        ({"parts": {"../../weights": ["x", None]}}, "'../../weights' is no name of a part"),
        ({"parts": {"weights": "x"}}, "cannot read"),
        ({"parts": {"weights": ["no such tree", None]}}, "cannot read .*weights.*'no such tree'"),
        ({"trees": []}, "cannot read"),
    ],
    ids=str,
)
def test_a_state_that_is_none_of_ours_is_refused(written, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        content(rewritten(tmp_path / "copy", written, **changes))


@pytest.mark.parametrize("text", ["", "[]", "5", "{", "[" * 100_000, '{"format": 2}', "\x00", "{}"])
def test_what_is_no_state_is_refused(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ConfigError, match="checkpoint: "):
        checkpoint.read(tmp_path)


def test_the_first_format_is_still_read(written, tmp_path):
    """It had no checksums and no settings, and a structure for each part."""
    old = shutil.copytree(written / "first", tmp_path / "old")
    stored = checkpoint.read(old)
    trees = {name: stored.trees[label] for name, (label, _) in stored.parts.items()}
    state = {"format": 1, "marlcomm": "0.1.0", "counters": COUNTERS, "trees": trees}
    (old / "state.json").write_text(json.dumps(state))
    found = checkpoint.read(old)
    assert exact({name: found.read(name) for name in found.parts}) == exact(PARTS)
    assert found.settings is None
    checkpoint.write(tmp_path / "new", COUNTERS, None, weights=checkpoint.Stored(old))  # a replay goes on so
    assert exact(checkpoint.read(tmp_path / "new").read("weights")) == exact(PARTS["weights"])
