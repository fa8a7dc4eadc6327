"""Evaluations that are killed, shared out, measured, or come to a folder that is not theirs."""

import dataclasses
import itertools
import json
import os

import pytest
from helpers.fakes import ClockModel, Killed, Mortal, killed_in, lives_until_done, noise_samples
from helpers.files import read_json_lines, tree

from simulsa_plugin.errors import StorageError
from simulsa_plugin.evaluation import block_decoding, cell_files, decoded_block
from simulsa_plugin.evaluation import result_folder as results
from simulsa_plugin.evaluation import run as module
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.model.values import UnusableRow
from simulsa_plugin.sharding import Shard

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def rows(tmp_path):
    return noise_samples(tmp_path, [0.9 + 0.3 * row for row in range(7)])


def run(rows, out, model=None, share=None, **settings):
    chosen = EvaluationSettings(**({"chunks": (500,), "rollbacks": (0, 3)} | settings))
    return run_evaluation(model or ClockModel(regret=True), "toy", rows, chosen, out, share)


class MortalModel(Mortal, ClockModel):
    pass


def test_whoever_decodes_what_is_left_finds_the_same_attention_heads(rows, tmp_path, caplog):
    caplog.set_level("INFO")
    attention = {"policies": ("attention",), "attention_ms": (100, 300)}
    rows = [UnusableRow(7, "no_audio"), *rows, *(dataclasses.replace(row, row=row.row + 10) for row in rows)]
    heads = tuple((0, 900 + 300 * row) for row in range(7))  # by the milliseconds of what is heard: eight rows less one
    whole, mortal, alive = ClockModel(), MortalModel(), ClockModel()
    run(rows, tmp_path / "whole", whole, **attention)
    assert "attention heads (layer/head): 0/900,0/1200," in caplog.text
    mortal.lives = 20
    with pytest.raises(Killed):
        run(rows, tmp_path / "killed", mortal, **attention)
    run(rows, tmp_path / "killed", alive, **attention)
    assert whole.watched == mortal.watched == alive.watched == [heads]
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    named = ClockModel()
    run(rows, tmp_path / "named", named, **attention, attention_heads=("14/3", "2/0"))
    assert named.watched == [((14, 3), (2, 0))]
    run(rows, tmp_path / "none", named)
    assert len(named.watched) == 1


def test_a_run_that_dies_again_and_again_ends_with_the_same_bytes(rows, tmp_path):
    run(rows, tmp_path / "whole")
    killed = tmp_path / "killed"
    lives = lives_until_done(MortalModel, itertools.count(3), lambda model: run(rows, killed, model), regret=True)
    assert lives > 4  # it did die
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert not (tmp_path / "killed" / "decoding").exists()


def test_blocks_that_are_done_are_not_decoded_again(rows, tmp_path):
    model = MortalModel(regret=True)
    model.lives = 8
    with pytest.raises(Killed):
        run(rows, tmp_path / "out", model)
    done = len(list((tmp_path / "out" / "decoding").glob("[0-9]*")))
    assert 0 < done < 4
    again, anew = ClockModel(regret=True), ClockModel(regret=True)
    run(rows, tmp_path / "out", again)
    run(rows, tmp_path / "anew", anew)
    assert len(again.asked) < len(anew.asked)


def test_killed_while_it_writes_results_it_ends_with_the_same_bytes(rows, tmp_path):
    run(rows, tmp_path / "whole")
    for place, name in (
        (cell_files, "write_simuleval_log"),
        (results, "write_result_report"),
        (results, "write_json"),
        (cell_files, "emission_record"),
    ):
        with killed_in(place, name):
            run(rows, tmp_path / name)
        run(rows, tmp_path / name)
        assert tree(tmp_path / name) == tree(tmp_path / "whole")


@pytest.mark.parametrize("same_container", [True, False])
def test_a_half_written_block_is_removed_where_its_process_is_known_to_be_dead(
    rows, tmp_path, monkeypatch, same_container
):
    run(rows, tmp_path / "whole")
    child = os.fork()
    if not child:
        block_decoding._put_in_place = lambda *_: os._exit(9)
        run(rows, tmp_path / "out")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    if not same_container:  # of the same name, where process numbers mean others
        monkeypatch.setattr(block_decoding, "pid_namespace", lambda: "another")
    run(rows, tmp_path / "out", share=Shard(2, 2))
    assert len(list((tmp_path / "out" / "decoding").glob(".*.unfinished"))) == (not same_container)
    run(rows, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("order", [(2, 3, 1), (3, 2, 1)])
def test_shares_end_with_the_same_bytes(rows, tmp_path, order):
    run(rows, tmp_path / "whole")
    for number in order:
        cells = run(rows, tmp_path / "shared", share=Shard(number, 3))
        assert bool(cells) == (number == 1)
    assert tree(tmp_path / "shared") == tree(tmp_path / "whole")
    assert run(rows, tmp_path / "shared", share=Shard(2, 3)) == []  # one that comes late
    assert tree(tmp_path / "shared") == tree(tmp_path / "whole")


def test_what_one_share_did_a_single_process_finishes(rows, tmp_path):
    run(rows, tmp_path / "whole")
    run(rows, tmp_path / "out", share=Shard(2, 2))
    run(rows, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_finished_folder_is_only_read(rows, tmp_path):
    cells = run(rows, tmp_path / "out")
    model = ClockModel(regret=True)
    assert run(rows, tmp_path / "out", model) == cells
    assert not model.asked


@pytest.mark.parametrize("finished", [True, False])
def test_another_evaluation_is_refused_in_one_line(rows, tmp_path, finished):
    if finished:
        run(rows, tmp_path / "out")
    else:
        run(rows, tmp_path / "out", share=Shard(2, 2))
    for changed, said in (
        ({"max_new_tokens": 9}, r"other settings: simulsa_max_new_tokens was 256, now 9"),
        ({"rows": rows[:6]}, "other settings: rows was"),
    ):
        with pytest.raises(StorageError, match=said) as caught:
            run(changed.pop("rows", rows), tmp_path / "out", **changed)
        assert "\n" not in str(caught.value)


GPU = {"model": "clock", "adapter": None, "weights": "4f", "dtype": "bfloat16", "device": "cuda"}
CPU = GPU | {"device": "cpu"}


class Machine(ClockModel):
    """A clock on a named device."""

    def __init__(self, description, name):
        super().__init__(regret=True)
        self.description, self.name = description, name

    def describe(self):
        return self.description

    def hardware(self):
        return {"device": self.name}


def scores(out):
    return json.loads((out / "scores.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("finisher", [CPU, CPU | {"dtype": "float32", "weights": "9a"}])
def test_what_accelerators_decoded_another_machine_finishes_and_reads(rows, tmp_path, monkeypatch, finisher):
    with monkeypatch.context() as patched:
        patched.setattr(module, "_finish", lambda *_: (_ for _ in ()).throw(Killed))
        run(rows, tmp_path / "out", Machine(GPU, "NVIDIA A100"), Shard(2, 2))
        with pytest.raises(Killed):
            run(rows, tmp_path / "out", Machine(GPU, "NVIDIA H100"), Shard(1, 2))
    model = Machine(finisher, "EPYC")
    cells = run(rows, tmp_path / "out", model)
    assert not model.batches
    assert scores(tmp_path / "out")["model"] == GPU
    assert scores(tmp_path / "out")["decoded_on"] == ["NVIDIA A100", "NVIDIA H100"]
    before = tree(tmp_path / "out")
    assert run(rows, tmp_path / "out", Machine(finisher, "EPYC")) == cells
    assert tree(tmp_path / "out") == before
    with pytest.raises(StorageError, match="other settings: weights was"):
        run(rows, tmp_path / "out", Machine(CPU | {"weights": "9a"}, "EPYC"))  # trained again under its old name


def test_devices_share_an_evaluation_but_weights_and_dtypes_do_not_mix(rows, tmp_path):
    run(rows, tmp_path / "out", Machine(GPU, "NVIDIA A100"), Shard(2, 2))
    for change, said in (
        ({"dtype": "float32"}, "other settings: dtype was"),
        ({"weights": "9a"}, "other settings: weights was"),
    ):
        with pytest.raises(StorageError, match=said):
            run(rows, tmp_path / "out", Machine(CPU | change, "EPYC"))
    run(rows, tmp_path / "out", Machine(CPU, "EPYC"))
    assert scores(tmp_path / "out")["decoded_on"] == ["EPYC", "NVIDIA A100"]


def test_measured_steps_have_times_on_simulevals_clock(rows, tmp_path, monkeypatch):
    ticks = itertools.count()  # every look at the clock is 0.1 s later, so that every step takes 100 ms

    def alone(model, source, cell, limits):
        return original(model, source, cell, limits, lambda: next(ticks) / 10)

    original = decoded_block.decode_timed
    monkeypatch.setattr(decoded_block, "decode_timed", alone)
    cells = run(rows[:2], tmp_path / "timed", rollbacks=(3,), measure_time=True)
    plain = run(rows[:2], tmp_path / "plain", rollbacks=(3,))
    folder = tmp_path / "timed" / "rollback_k500_b3"
    steps = read_json_lines(folder / "steps.jsonl")
    assert [step["compute_ms"] for step in steps] == pytest.approx([100.0] * len(steps))
    (first, _) = read_json_lines(folder / "instances.log")
    # 0.9 s: steps at 500 and 900 ms; both words come with the second, after 200 ms of computation.
    assert first["delays"] == [900, 900]
    assert first["elapsed"] == pytest.approx([1100, 1100])
    for timed, untimed in zip(cells, plain, strict=True):
        assert {name: timed[name] for name in ("BLEU", "LAAL", "NE")} == {n: untimed[n] for n in ("BLEU", "LAAL", "NE")}
        assert timed["LAAL_CA"] > timed["LAAL"]
        assert untimed["LAAL_CA"] is None
    scores = json.loads((tmp_path / "timed" / "scores.json").read_text(encoding="utf-8"))
    assert scores["hardware"] == {"device": "abacus"}
