"""The image of docker/, as far as it can be checked without Docker: what it copies, installs and starts exists."""

import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import yaml
from packaging.requirements import Requirement

import simulsa_plugin
from simulsa_plugin.agents.simulstream_options import read_options
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import plan_cells
from simulsa_plugin.llamafactory.plugin.recipe_keys import GROUPS
from simulsa_plugin.settings import split_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"
PINS = {
    Requirement(line).name: line
    for line in (DOCKER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
}


def instructions():
    """(instruction, rest) of each line of the Dockerfile, continued lines joined."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line and not line.startswith("#")]


def of_kind(kind):
    return [rest for name, rest in instructions() if name == kind]


def copied():
    """Where each copied file lies in the image."""
    places = {}
    for rest in of_kind("COPY"):
        *sources, target = rest.split()
        places |= {source: "/app" / Path(target) / Path(source).name for source in sources}
    return places


def test_what_is_copied_exists_and_reaches_the_build():
    allowed = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert allowed[0] == "*"
    for source in copied():
        # The tests may run against an installed package, without its sources beside them.
        place = Path(simulsa_plugin.__file__).parent if source == "simulsa_plugin" else REPOSITORY / source
        assert place.exists()
        assert f"!{source.split('/')[0]}" in allowed


def test_the_build_has_what_pyproject_names():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["readme"] in copied()
    assert {path.split("*")[0] for path in project["license-files"]} <= set(copied())


def test_every_dependency_is_pinned_to_a_version_that_pyproject_allows():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["live"]]
    needed += (DOCKER / "requirements.in").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+( ; .*)?", line) for line in PINS.values())
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(PINS[requirement.name].split(" ")[0].partition("==")[2]), requirement


def test_the_base_image_has_the_python_that_the_project_needs_and_nobody_is_root():
    (base,) = of_kind("FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    assert [user.isdigit() and int(user) > 0 for user in of_kind("USER")] == [True]
    kinds = [name for name, _ in instructions()]
    assert kinds.index("USER") > max(number for number, name in enumerate(kinds) if name == "RUN")


def test_the_started_files_are_in_the_image_or_mounted():
    (words,) = map(json.loads, of_kind("CMD"))
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert Path(options["--server-config"]) in copied().values()
    assert options["--speech-processor-config"] == "/model/processor.yaml"
    server = yaml.safe_load((DOCKER / "http_server.yaml").read_text(encoding="utf-8"))
    proxy = yaml.safe_load((DOCKER / "proxy.yaml").read_text(encoding="utf-8"))
    assert [str(server["port"]), str(proxy["port"])] == of_kind("EXPOSE") * 2


def test_the_processor_is_one_of_ours_with_known_keys_and_one_cell():
    config = yaml.safe_load((DOCKER / "processor.yaml").read_text(encoding="utf-8"))
    options = read_options(SimpleNamespace(**config))
    own, rest = split_recipe(options.keys, GROUPS)
    (name,) = [own.pop("simulsa_cells")]
    tuned = {"simulsa_policies": "confidence", "simulsa_chunks": 1000, "simulsa_confidence_threshold": 0.99}
    cells = plan_cells(EvaluationSettings.from_keys(own | tuned | {"simulsa_cells": name}))
    assert {cell.chunk_ms for cell in cells} == {None, 1000}  # offline is always there
    assert options.recipe.startswith("/model/") and rest["model_name_or_path"].startswith("/model/")
