"""What is shipped: the wheel, the docs that must stay true, the layout."""

import doctest
import re
import subprocess
import sys
import zipfile
from email import message_from_string

import pytest

from marlcomm import cli, registry
from marlcomm.config import experiment, merge, read


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, pytestconfig):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # A copy, so that building leaves nothing behind in the checkout.
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={source}/"], cwd=pytestconfig.rootpath, check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source],
        check=True,
    )
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_package_and_nothing_else(wheel, pytestconfig):
    tracked = subprocess.run(
        ["git", "ls-files", "marlcomm"], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True
    ).stdout.split()
    shipped = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert sorted(shipped) == sorted(tracked)
    assert "marlcomm/py.typed" in shipped
    assert "marlcomm/envs/cards_data/traffic_junction.json" in shipped


def test_the_wheel_says_what_it_needs(wheel):
    def read_text(suffix):
        return wheel.read(next(name for name in wheel.namelist() if name.endswith(suffix))).decode()

    metadata = message_from_string(read_text("METADATA"))
    needs = {re.split(r"[ <>=!;\[]", line)[0] for line in metadata.get_all("Requires-Dist")}
    assert {"torch", "ray", "pettingzoo", "gymnasium", "numpy", "tensorboard"} <= needs
    assert "Apache-2.0" in (metadata["License-Expression"], metadata["License"])
    assert "marlcomm = marlcomm.cli:main" in read_text("entry_points.txt")


def test_every_pinned_version_satisfies_the_honest_range(pytestconfig):
    from configparser import ConfigParser

    from packaging.requirements import Requirement

    setup = ConfigParser()
    setup.read(pytestconfig.rootpath / "setup.cfg")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["dev"]
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (pytestconfig.rootpath / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for line in filter(None, (line.partition("#")[0].strip() for line in lines.splitlines())):
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def document(pytestconfig, name):
    return (pytestconfig.rootpath / name).read_text(encoding="utf-8")


def test_the_readmes_commands_exist(pytestconfig):
    readme = document(pytestconfig, "README.md")
    verbs = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    verbs |= {group.name for group in cli.app.registered_groups}
    used = re.findall(r"^marlcomm (\w+)(.*)$", readme, re.MULTILINE)
    assert {verb for verb, _ in used} >= {"train", "evaluate", "list", "check"}
    for verb, arguments in used:
        assert verb in verbs
        words = [word for word in arguments.split() if word != "--dry-run"]
        if verb == "train" and not words[0].startswith("--"):
            files = words[: "=" not in words[0]]
            data = read(pytestconfig.rootpath / files[0])[0] if files else {}
            assert experiment(merge(data, words[len(files) :])[0])
    makefile = document(pytestconfig, "Makefile")
    for target in re.findall(r"^make (\w+)", readme, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_readmes_python_is_a_valid_config(pytestconfig):
    block = re.search(r"```python\n(.*?)```", document(pytestconfig, "README.md"), re.DOTALL)[1]
    before, _, _ = block.partition("algorithm = ")
    names: dict = {}
    exec(before, names)
    names["config"].validate()


def test_the_tutorials_channel_is_the_tested_one(pytestconfig):
    code = document(pytestconfig, "tests/third_party.py").partition('"""\n\n')[2]
    assert code.strip() in document(pytestconfig, "docs/channels.md")


def test_what_the_page_on_bits_shows_is_what_python_prints(pytestconfig):
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", document(pytestconfig, "docs/bits.md"), re.DOTALL)
    assert len(blocks) == 4
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for number, block in enumerate(blocks):
        test = doctest.DocTestParser().get_doctest(block, names, f"block {number}", "docs/bits.md", 0)
        runner.run(test, clear_globs=False)
        names = test.globs
    assert runner.summarize(verbose=False).failed == 0


def test_the_page_on_bits_names_every_code(pytestconfig):
    from marlcomm.wire import CODES

    named = re.findall(r"^\| `([\w-]+)` \|", document(pytestconfig, "docs/bits.md"), re.MULTILINE)
    assert named == list(CODES)


def test_docs_name_every_registered_thing(pytestconfig):
    pages = {"env": "worlds", "channel": "channels", "policy": "policies", "algorithm": "algorithms"}
    for kind, page in pages.items():
        for name, row in registry.TABLES[kind].rows.items():
            if isinstance(row.target, str):  # built in, not registered by another test
                assert f"## `{name}`\n" in document(pytestconfig, f"docs/{page}.md")


def test_the_page_of_results_is_that_of_the_result_files(pytestconfig):
    from marlcomm.analysis.findings import rows
    from marlcomm.analysis.results_page import page
    from marlcomm.analysis.study import Study

    files = sorted((pytestconfig.rootpath / "studies").glob("*.yaml"))
    studies = [Study.read(file, pytestconfig.rootpath / "results") for file in files]
    found = [(study, rows(study)) for study in studies]
    again = "marlcomm study report --out docs/results.md"
    assert document(pytestconfig, "docs/results.md") == page(found, again), again


def test_tables_in_the_docs_are_those_of_the_code(pytestconfig):
    """Settings with defaults, and the glossary of every figure."""
    subprocess.run([sys.executable, "docs/tables.py", "--check"], cwd=pytestconfig.rootpath, check=True)
    pages = "".join(
        document(pytestconfig, f"docs/{file.name}") for file in (pytestconfig.rootpath / "docs").glob("*.md")
    )
    for kind, table in registry.TABLES.items():
        for name, row in table.rows.items():
            if isinstance(row.target, str):
                assert f"<!-- settings {kind} {name} -->" in pages


def test_nothing_but_rllib_and_algorithms_imports_ray(pytestconfig):
    allowed = ("marlcomm/rllib/", "marlcomm/algorithms/")
    for file in (pytestconfig.rootpath / "marlcomm").rglob("*.py"):
        name = file.relative_to(pytestconfig.rootpath).as_posix()
        if not name.startswith(allowed):
            assert not re.search(r"^\s*(import ray|from ray)", file.read_text(encoding="utf-8"), re.MULTILINE), name


def test_rooms_import_only_from_rooms_above(pytestconfig):
    """The order of docs/layout.md."""
    package = pytestconfig.rootpath / "marlcomm"
    named = re.findall(r"^\| (`.*?`) \|", document(pytestconfig, "docs/layout.md"), re.MULTILINE)
    rooms = re.findall(r"`(\w+)", ", ".join(named))
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(rooms) == there - {"__init__"}
    for index, room in enumerate(rooms):
        files = [package / f"{room}.py"] if (package / f"{room}.py").is_file() else list((package / room).rglob("*.py"))
        assert files
        for file in files:
            text = file.read_text(encoding="utf-8")
            targets = re.findall(r"^\s*(?:from|import) marlcomm\.(\w+)", text, re.MULTILINE)
            for names in re.findall(r"^\s*from marlcomm import (.*)$", text, re.MULTILINE):
                targets += re.findall(r"\w+", names)
            for target in targets:
                if target in rooms:
                    assert rooms.index(target) <= index, (file.name, target)
