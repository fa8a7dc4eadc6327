"""The benchmark of a GPU runs on a processor with a tiny model, and docs/estimate_cost.py takes what it writes."""

import dataclasses
import json

import bench_gpu
import pytest
import random_model
import torch

from simulsa_plugin.model.cost import Machine, Work

FEW = [
    "--device",
    "cpu",
    "--rounds",
    "1",
    "--clips",
    "6",
    "--batch-size",
    "4",
    "--utterances",
    "2",
    "--new-tokens",
    "4",
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "gpu.json"
    bench_gpu.main([*FEW, "--rows", "1", "3", "--steps", "6", "--no-compile", "--json", str(file)])
    return json.loads(file.read_text(encoding="utf-8"))


def test_everything_is_measured_in_every_way(measured):
    found = [(row["what"], row["how"]) for row in measured["rows"]]
    assert found == [
        ("score clips", "batches of 4"),
        ("score clips", "one by one"),
        *(("decode utterances", f"{how}, {size}") for how in (bench_gpu.DYNAMIC, bench_gpu.STATIC)
          for size in ("batches of 64", "one by one")),
        *((f"decode step, {rows} rows", how) for rows in (1, 3) for how in (bench_gpu.DYNAMIC, bench_gpu.STATIC)),
    ]  # fmt: skip
    for row in measured["rows"]:
        assert row["seconds"] > 0 and row["samples_per_second"] > 0 and row["tokens_per_second"] > 0
    assert measured["rows"][0]["flop"] > 0
    assert measured["rows"][-1]["read_bytes"] > 0
    assert 0 < measured["machine"]["flop_share"] < 1
    assert 0 < measured["machine"]["bandwidth_share"] < 1


def test_the_cost_page_takes_its_rates(measured):
    machine = Machine(**measured["machine"])
    first = measured["rows"][0]
    assert machine.flop_share == pytest.approx(first["flop"] / first["seconds"] / machine.flop_per_second)
    assert Work(flop=machine.flop_per_second).seconds(machine) == pytest.approx(1 / machine.flop_share)


def test_lines_of_the_table_have_a_column_for_every_number(measured):
    fields = {field.name for field in dataclasses.fields(bench_gpu.Row)}
    rows = [bench_gpu.Row(**row) for row in measured["rows"]]
    assert fields == measured["rows"][0].keys()
    lines = list(bench_gpu.markdown(rows, Machine(1e12, 1e12)))
    assert len(lines) == 2 + len(rows)
    assert {line.count("|") for line in lines} == {9}


def test_a_model_that_does_not_fit_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(random_model, "free_bytes", lambda device: 20e9)
    with pytest.raises(
        SystemExit, match=r"The model needs 37 GB with 20 to work with, and 20 GB are free\. Take a larger"
    ):
        random_model.random_model(random_model.random_config("7b"), torch.bfloat16, "cuda")


def test_buffers_that_are_too_small_are_said():
    with pytest.raises(SystemExit, match=r"^2 rows do not fit into half of --memory-gb 0\.0001\. Set more\.$"):
        bench_gpu.main([*FEW, "--rows", "2", "--steps", "2", "--no-compile", "--memory-gb", "0.0001"])


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_answers(capsys):
    """Needs a C++ compiler, which torch.compile calls."""
    import shutil

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler")
    bench_gpu.main([*FEW, "--rows", "2", "--steps", "4"])
    out = capsys.readouterr().out
    assert "| decode step, 2 rows | torch.compile |" in out
    assert "differ" not in out
