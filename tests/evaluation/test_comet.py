"""COMET in an interpreter of its own: the errors and the protocol against a stub, the scores against comet itself.

What is marked comet needs an interpreter with unbabel-comet, named by the environment variable SIMULSA_COMET_PYTHON:

    python -m venv comet-env && comet-env/bin/pip install unbabel-comet 'setuptools<82'
    SIMULSA_COMET_PYTHON=comet-env/bin/python pytest tests/evaluation/test_comet.py
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simulsa_plugin.errors import MissingExtraError, ModelError, UsageError
from simulsa_plugin.evaluation.comet.scoring import WORKER, comet_scores

BUILDER = Path(__file__).parents[1] / "helpers" / "tiny_comet.py"
COMET_PYTHON = os.environ.get("SIMULSA_COMET_PYTHON", "")
needs_comet = pytest.mark.skipif(
    not COMET_PYTHON,
    reason="no SIMULSA_COMET_PYTHON: python -m venv comet-env && comet-env/bin/pip install "
    "unbabel-comet 'setuptools<82', then SIMULSA_COMET_PYTHON=comet-env/bin/python",
)
TRIPLES = [
    {
        "src": "The woman is reading a book, and the child plays in the garden.",
        "mt": "Die Frau liest, und das Kind.",
        "ref": "Die Frau liest ein Buch, und das Kind spielt im Garten.",
    },
    {"src": "The man.", "mt": "Der Mann hat das Auto gekauft.", "ref": "Der Mann."},
    {"src": "The child plays for the doctor.", "mt": "", "ref": "Das Kind spielt für die Ärztin."},
    {"src": "the car", "mt": "das Buch\nder Frau", "ref": ""},
    {"src": "", "mt": "im Garten", "ref": "im Garten"},
]


def without(*names):
    return [{name: text for name, text in triple.items() if name not in names} for triple in TRIPLES]


def error_of(kind, *arguments, **options):
    """The message; whatever goes wrong is one line, and no traceback."""
    with pytest.raises(kind) as caught:
        comet_scores(*arguments, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


# Against a stub

STUB = """
import os

OFFLINE = {{name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}}  # when it is imported
__version__ = "9.9"


class {name}:
    def named_parameters(self):
        return []

    def predict(self, samples, batch_size, gpus, num_workers, progress_bar):
        import json, math, os, signal, sys
        seen = dict(samples=samples, batch_size=batch_size, gpus=gpus, progress_bar=progress_bar, **CALL, **OFFLINE)
        with open({seen!r}, "w") as file:
            json.dump(seen, file)
        if progress_bar:
            print("Predicting", file=sys.stderr)
        return {{"scores": {scores}}}


def load_from_checkpoint(path, reload_hparams=False, local_files_only=False):
    global CALL
    CALL = dict(path=path, reload_hparams=reload_hparams, local_files_only=local_files_only)
    return {name}()
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Install a comet whose scores are an expression over `samples`; the call gives what it was asked for last."""
    seen = tmp_path / "seen.json"

    def install(scores="[len(sample['mt']) for sample in samples]", name="RegressionMetric"):
        package = tmp_path / "stub" / "comet"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(STUB.format(scores=scores, name=name, seen=str(seen)))
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        return lambda: json.loads(seen.read_text())

    return install


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "wmt22-comet-da"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "hparams.yaml").write_text("class_identifier: regression_metric\npretrained_model: xlm-roberta-large\n")
    (folder / "checkpoints" / "model.ckpt").write_bytes(b"weights")
    return folder


def test_each_segment_gets_its_score_in_the_order_given_and_a_signature_says_of_what(stub, checkpoint):
    seen = stub()
    result = comet_scores(TRIPLES, checkpoint, batch_size=3)
    assert result.scores == tuple(len(triple["mt"]) for triple in TRIPLES)
    parts = b"".join(b"weights"[7 * part // 64 :] for part in range(64))  # they overlap in so short a file
    assert result.signature == (
        f"COMET|checkpoint:wmt22-comet-da|content:{hashlib.sha256(b'7' + parts).hexdigest()[:12]}|segments:src+ref|"
        "class:RegressionMetric|version:unbabel-comet-9.9"
    )
    assert seen()["samples"] == TRIPLES
    assert seen()["batch_size"] == 3
    (checkpoint / "checkpoints" / "model.ckpt").write_bytes(b"Weights")  # another one of the same name
    assert comet_scores(TRIPLES, checkpoint).signature != result.signature


def test_nothing_is_fetched(stub, checkpoint, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    seen = stub()
    comet_scores(TRIPLES, checkpoint)
    assert seen()["local_files_only"] is True
    assert seen()["HF_HUB_OFFLINE"] == seen()["TRANSFORMERS_OFFLINE"] == "1"


def test_the_worker_needs_nothing_but_the_standard_library_and_comet(stub, checkpoint, tmp_path):
    stub()
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # without this package, and without any other
    bare.chmod(0o755)
    assert comet_scores(TRIPLES, checkpoint, python=str(bare)).scores
    nodes = list(ast.walk(ast.parse(WORKER.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"comet"}


def test_the_ckpt_file_itself_may_be_given_and_links_of_a_hubs_cache_are_not_followed(stub, checkpoint, tmp_path):
    seen = stub()
    blob = tmp_path / "blobs" / "0f1e"
    blob.parent.mkdir()
    file = (checkpoint / "checkpoints" / "model.ckpt").rename(blob)
    link = checkpoint / "checkpoints" / "model.ckpt"
    link.symlink_to(file)
    signatures = {comet_scores(TRIPLES, given).signature for given in (checkpoint, link)}
    assert len(signatures) == 1 and "checkpoint:wmt22-comet-da|" in signatures.pop()
    assert seen()["path"] == str(link)


def test_other_keys_of_a_triple_are_left_out(stub, checkpoint):
    seen = stub()
    comet_scores([{**TRIPLES[0], "score": "1"}], checkpoint)
    assert seen()["samples"] == TRIPLES[:1]


def test_a_progress_bar_is_shown_on_a_terminal_only(stub, checkpoint, monkeypatch):
    seen = stub()
    comet_scores(TRIPLES, checkpoint)
    assert seen()["progress_bar"] is False
    ours, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        comet_scores(TRIPLES, checkpoint)
        assert b"Predicting" in os.read(ours, 1000)
    os.close(ours)
    assert seen()["progress_bar"] is True


def test_an_interpreter_without_comet_says_how_to_make_one(checkpoint, monkeypatch):
    # Beside the worker lies this package's own module named comet, which must not be taken for it.
    monkeypatch.delenv("PYTHONPATH", raising=False)
    message = error_of(MissingExtraError, TRIPLES, checkpoint)
    assert message.startswith(f"{sys.executable} has no unbabel-comet.")
    assert "python -m venv comet-env && comet-env/bin/pip install unbabel-comet" in message
    assert "comet-env/bin/python" in message


def test_a_comet_that_cannot_be_imported_says_what_it_lacks_and_how_to_make_one(stub, checkpoint, tmp_path):
    stub()
    (tmp_path / "stub" / "comet" / "__init__.py").write_text("import pkg_resources_of_old\n")
    message = error_of(MissingExtraError, TRIPLES, checkpoint)
    assert "(No module named 'pkg_resources_of_old')" in message
    assert "'setuptools<82'" in message


@pytest.mark.parametrize(
    "lost, named",
    [
        (".", "does not exist"),
        ("hparams.yaml", "has no {0}/hparams.yaml"),
        ("checkpoints", "has no {0}/checkpoints/mod"),
    ],
)
def test_a_checkpoint_that_is_not_whole_says_what_is_missing(stub, checkpoint, lost, named):
    stub()
    path = checkpoint / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert named.format(checkpoint) in error_of(UsageError, TRIPLES, checkpoint)


def test_a_ckpt_file_without_its_hparams_says_where_they_belong(stub, checkpoint):
    stub()
    (checkpoint / "hparams.yaml").unlink()
    message = error_of(UsageError, TRIPLES, checkpoint / "checkpoints" / "model.ckpt")
    assert str(checkpoint / "hparams.yaml") in message


def test_an_interpreter_that_does_not_exist_is_named(checkpoint):
    message = error_of(UsageError, TRIPLES, checkpoint, python="/nowhere/python")
    assert "/nowhere/python" in message and "No such file" in message


def test_a_program_that_is_no_python_is_found_out(checkpoint):
    assert "wrote no scores" in error_of(ModelError, TRIPLES, checkpoint, python=shutil.which("true"))


@pytest.mark.parametrize(
    "scores, told",
    [
        ("1 / 0", "COMET failed: ZeroDivisionError: division by zero"),
        ("json.loads('[\\n\\n')", "COMET failed: JSONDecodeError: Expecting value: line 3"),
        ("sys.exit(7)", "status 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("[0.5]", "1 scores for 5 segments"),
        (
            "[0.5, 0.5, math.nan, 0.5, math.inf]",
            "2 of 5 segments a score that is not finite, first in segment 3",
        ),
    ],
)
def test_a_scoring_that_goes_wrong_is_one_line(stub, checkpoint, scores, told):
    stub(scores)
    assert told in error_of(ModelError, TRIPLES, checkpoint)


@pytest.mark.parametrize(
    "name, given, needed",
    [
        ("RegressionMetric", without("ref"), "needs src and ref with each translation; there is src."),
        ("RegressionMetric", without("src"), "needs src and ref with each translation; there is ref."),
        ("ReferencelessRegression", without("src"), "needs src with each translation; there is ref."),
    ],
)
def test_a_model_that_needs_other_texts_says_which(stub, checkpoint, name, given, needed):
    stub(name=name)
    message = error_of(UsageError, given, checkpoint)
    assert f"{name}, which {needed}" in message


@pytest.mark.parametrize(
    "triples, told",
    [
        ([], "no segments"),
        (without("src", "ref"), "mt with src, ref or both"),
        (without("mt"), "mt with src, ref or both"),
        ([TRIPLES[0], *without("ref")[1:]], "Segment 2 for COMET has src, mt; the first has src, mt, ref"),
        ([{**TRIPLES[0], "ref": None}], "Segment 1 for COMET has no text as ref, but None"),
    ],
)
def test_segments_that_cannot_be_scored_are_named(stub, checkpoint, triples, told):
    stub()
    assert told in error_of(UsageError, triples, checkpoint)


def test_a_batch_has_at_least_one_segment(checkpoint):
    assert "1 or more" in error_of(UsageError, TRIPLES, checkpoint, batch_size=0)


# Against comet


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of tiny random checkpoints; each test of scores starts an interpreter, so they are made once."""
    folder = tmp_path_factory.mktemp("comet")
    run_comet([str(BUILDER), "build", str(folder)])
    return folder


def run_comet(arguments):
    done = subprocess.run([COMET_PYTHON, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def comets_own(checkpoint, triples, tmp_path):
    lines = tmp_path / "triples.jsonl"
    lines.write_text("".join(json.dumps(triple) + "\n" for triple in triples), encoding="utf-8")
    return json.loads(run_comet([str(BUILDER), "predict", str(checkpoint), str(lines)]).splitlines()[-1])


def scored(checkpoint, triples=TRIPLES, **options):
    return comet_scores(triples, checkpoint, python=COMET_PYTHON, **options)


@pytest.mark.comet
@needs_comet
@pytest.mark.parametrize(
    "kind, triples, description",
    [
        ("regression", TRIPLES, "segments:src+ref|class:RegressionMetric"),
        ("referenceless", TRIPLES, "segments:src|class:ReferencelessRegression"),
        ("xcomet", TRIPLES, "segments:src+ref|class:XCOMETMetric"),
        ("xcomet", without("src"), "segments:ref|class:XCOMETMetric"),
        ("xcomet", without("ref"), "segments:src|class:XCOMETMetric"),
    ],
)
def test_scores_are_comets_own_in_the_order_given(tiny, tmp_path, kind, triples, description):
    result = scored(tiny / kind, triples)
    assert result.scores == pytest.approx(comets_own(tiny / kind, triples, tmp_path), abs=1e-5)
    ascending = sorted(result.scores)
    assert min(after - before for before, after in itertools.pairwise(ascending)) > 1e-4  # else no order would show
    assert f"|checkpoint:{kind}|content:" in result.signature
    assert f"|{description}|version:unbabel-comet-2." in result.signature


@pytest.mark.comet
@needs_comet
@pytest.mark.parametrize("kind", ["regression", "xcomet"])
def test_the_batch_size_does_not_matter(tiny, kind):
    by_two, at_once = (scored(tiny / kind, batch_size=size).scores for size in (2, 100))
    assert by_two == pytest.approx(at_once, abs=1e-5)


@pytest.mark.comet
@needs_comet
def test_scoring_leaves_the_checkpoints_folder_as_it_was(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    scored(tiny / "regression" / "checkpoints" / "model.ckpt")
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


@pytest.mark.comet
@needs_comet
def test_an_encoder_may_stand_anywhere_if_hparams_names_its_folder(tiny, tmp_path):
    moved = shutil.copytree(tiny / "xcomet", tmp_path / "moved")
    elsewhere = (moved / "encoder").rename(tmp_path / "elsewhere")
    hparams = moved / "hparams.yaml"
    hparams.write_text(hparams.read_text().replace("pretrained_model: encoder", f"pretrained_model: {elsewhere}"))
    assert scored(moved).scores == pytest.approx(scored(tiny / "xcomet").scores, abs=1e-6)


@pytest.mark.comet
@needs_comet
def test_an_encoder_that_is_not_there_is_named_and_not_fetched(tiny, tmp_path):
    moved = shutil.copytree(tiny / "regression", tmp_path / "moved", ignore=shutil.ignore_patterns("encoder"))
    message = error_of(ModelError, TRIPLES, moved, python=COMET_PYTHON)
    assert f"There is no folder {moved / 'encoder'}, so the Hugging Face cache must have" in message


@pytest.mark.comet
@needs_comet
def test_a_checkpoint_that_lacks_weights_is_not_scored_with_random_ones(tiny, tmp_path):
    damaged = shutil.copytree(tiny / "regression", tmp_path / "damaged")
    file = damaged / "checkpoints" / "model.ckpt"
    run_comet(
        [
            "-c",
            "import sys, torch; file = sys.argv[1]; content = torch.load(file); "
            "del content['state_dict']['estimator.ff.0.weight']; torch.save(content, file)",
            str(file),
        ]
    )
    message = error_of(ModelError, TRIPLES, damaged, python=COMET_PYTHON)
    assert "lacks 1 weights of a RegressionMetric, such as estimator.ff.0.weight" in message
