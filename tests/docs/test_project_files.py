"""The files around the package agree with it, and with each other."""

import re
import tomllib

import yaml
from documents import REPOSITORY

import simulsa_plugin


def read(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_every_file_names_the_same_version():
    versions = {
        "package": simulsa_plugin.__version__,
        "pyproject.toml": tomllib.loads(read("pyproject.toml"))["project"]["version"],
        "CITATION.cff": yaml.safe_load(read("CITATION.cff"))["version"],
        "CHANGELOG.md": re.findall(r"^## \[([\d.]+)\]", read("CHANGELOG.md"), re.MULTILINE)[0],
    }
    assert len(set(versions.values())) == 1, versions


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert {"type", "title", "authors"} <= citation["references"][0].keys()


def test_hooks_and_check_and_ci_run_the_same_tools():
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    check = read("check")
    for tool in ("ruff check", "ruff format", "mypy"):
        assert any(hook["entry"].startswith(tool) for hook in hooks)
        assert f"run {tool}" in check
    assert "generate_reference.py --check" in check
    assert "./check" in read(".ci/run")


def test_a_source_distribution_holds_every_document():
    include = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    roots = {path.name for path in REPOSITORY.glob("*.md")} | {"docs", "recipes", "tests", "/.ci", "/check", "LICENSE"}
    assert roots <= set(include)
