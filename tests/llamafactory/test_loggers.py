"""Examples and curves beside the numbers of a training: in TensorBoard's files, and in fake W&B and SwanLab."""

import io
import struct
import sys
import types

import numpy as np
import pytest
from helpers.fakes import ClockModel, noise_samples
from PIL import Image

from simulsa_plugin.evaluation.during_training import (
    History,
    decode_share,
    plan_training_evaluation,
    score_cells,
)
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import plan_cells
from simulsa_plugin.evaluation.training_examples import choose_examples
from simulsa_plugin.evaluation.training_page import write_training_page
from simulsa_plugin.llamafactory.training import hook
from simulsa_plugin.llamafactory.training.loggers import CURVES, EXAMPLES, log_examples

EVIL = "<b>guten</b> | Tag_ </script>"


class Bar:
    def update(self, n):
        pass


@pytest.fixture
def plan(tmp_path):
    settings = EvaluationSettings(chunks=(500,), rollbacks=(0, 3))
    rows = noise_samples(tmp_path, [2.0, 1.7, 0.9, 1.1, 1.3, 1.5], text=EVIL)
    return plan_training_evaluation("toy", rows, plan_cells(settings), settings)[0]


@pytest.fixture
def sessions(plan):
    return decode_share(ClockModel(text=EVIL, ms_per_byte=40.0, regret=True), plan, 0, 1, Bar())


@pytest.fixture
def examples(plan, sessions):
    return choose_examples(plan, sessions)


@pytest.fixture
def picture():
    file = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(file, format="PNG")
    return file.getvalue()


def make_callback(name, **attributes):
    return type(name, (), attributes)()


def events(folder):
    """All summaries in TensorBoard's files: (step, tag, value)."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.out.tfevents*")
    content, start = path.read_bytes(), 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)  # then 4 bytes of check sum, the event, and 4 more
        event = Event.FromString(content[start + 12 : start + 12 + length])
        yield from ((event.step, value.tag, value) for value in event.summary.value)
        start += 16 + length


def test_tensorboard_gets_the_texts_and_the_image(examples, picture, tmp_path):
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(tmp_path / "runs")) as writer:
        assert log_examples([make_callback("TensorBoardCallback", tb_writer=writer)], 7, examples, picture) == []
    found = {tag: (step, value) for step, tag, value in events(tmp_path / "runs")}
    step, text = found[f"{EXAMPLES}/text_summary"]
    assert step == 7
    assert text.tensor.string_val[0].decode() == examples.markdown()
    step, image = found[CURVES]
    assert (step, image.image.height, image.image.width) == (7, 4, 6)
    assert np.asarray(Image.open(io.BytesIO(image.image.encoded_image_string))).tolist() == [[[7, 7, 7]] * 6] * 4


def fake_logger(**more):
    calls = []
    module = types.SimpleNamespace(
        calls=calls,
        log=lambda values, **named: calls.append((values, named)),
        Table=lambda columns, data: ("table", columns, data),
        Image=lambda pixels: ("image", pixels.shape, pixels.dtype),
        Text=lambda text: ("text", text),
        **more,
    )
    return module


IMAGE = ("image", (4, 6, 3), np.dtype(np.uint8))


def test_wandb_gets_a_table_and_the_image_on_its_own_axis(examples, picture):
    wandb = fake_logger(run=object())
    extended = type("LaterWandbCallback", (type(make_callback("WandbCallback")),), {"_wandb": wandb})()
    assert log_examples([extended], 7, examples, picture) == []
    ((values, named),) = wandb.calls
    assert values == {
        EXAMPLES: ("table", examples.head, examples.table()),
        CURVES: IMAGE,
        "train/global_step": 7,
    }
    assert named == {}


def no_run():
    raise RuntimeError("No active Run. Call swanlab.init() first.")


OLD_SWANLAB = {"get_run": object}  # 0.7
NEW_SWANLAB = {"get_run": no_run, "has_run": lambda: True}  # 0.10, whose `get_run` is not asked


@pytest.mark.parametrize("version", [OLD_SWANLAB, NEW_SWANLAB])
@pytest.mark.parametrize("owned", [True, False])
def test_swanlab_gets_the_texts_and_the_image(examples, picture, monkeypatch, owned, version):
    swanlab = fake_logger(**version)
    attributes = {"_swanlab": swanlab} if owned else {}  # SwanLab's own callback does not keep the module
    if not owned:
        monkeypatch.setitem(sys.modules, "swanlab", swanlab)
    assert log_examples([make_callback("SwanLabCallback", **attributes)], 7, examples, picture) == []
    assert swanlab.calls == [({EXAMPLES: ("text", examples.markdown()), CURVES: IMAGE}, {"step": 7})]


def test_loggers_that_are_missing_or_not_started_are_no_error(examples, picture):
    callbacks = [
        make_callback("TensorBoardCallback", tb_writer=None),
        make_callback("WandbCallback", _wandb=fake_logger(run=None)),
        make_callback("WandbCallback", _wandb=None),
        make_callback("SwanLabCallback", _swanlab=fake_logger(get_run=lambda: None)),
        make_callback("SwanLabCallback", _swanlab=fake_logger(get_run=no_run, has_run=lambda: False)),
        make_callback("PrinterCallback"),
    ]
    assert log_examples(callbacks, 1, examples, picture) == []
    assert log_examples([], 1, examples, b"no picture") == []


def test_a_logger_that_fails_is_named_and_the_others_get_theirs(examples, picture):
    def fail(values):
        raise ConnectionError("no\nnetwork")

    swanlab = fake_logger(get_run=object)
    broken = make_callback("WandbCallback", _wandb=types.SimpleNamespace(**{**vars(fake_logger(run=1)), "log": fail}))
    failures = log_examples([broken, make_callback("SwanLabCallback", _swanlab=swanlab)], 1, examples, picture)
    assert failures == ["WandbCallback: ConnectionError: no network"]
    assert len(swanlab.calls) == 1


# Examples


def test_examples_are_spread_over_the_test_set_and_have_every_cell(plan, examples):
    assert [one.audio for one in examples.rows] == [plan.samples[row].audio for row in (0, 1, 2, 3)]
    assert examples.head == ["utterance", "reference", "offline", "k500_b0", "k500_b3"]
    assert all(one.reference == EVIL for one in examples.rows)
    offline = examples.rows[0].texts["offline"]
    assert offline == f"[2] {EVIL}"  # all of it after all of the audio
    assert examples.rows[0].texts["k500_b3"].startswith("[0.5] ") or "[1] " in examples.rows[0].texts["k500_b3"]


def test_texts_stay_texts_in_markdown(examples):
    assert "<b>" not in examples.markdown()
    assert "\\<b\\>guten\\</b\\> \\| Tag\\_" in examples.markdown()


# In the hook


@pytest.fixture
def evaluator(plan, tmp_path, monkeypatch):
    model = ClockModel(text=EVIL, ms_per_byte=40.0)
    monkeypatch.setattr(hook.Evaluator, "_decode", lambda self, trainer: decode_share(model, self.plan, 0, 1, Bar()))
    (tmp_path / "out").mkdir()
    return hook.Evaluator(plan, None, History(tmp_path / "out"))


def make_trainer(step):
    args = types.SimpleNamespace(metric_for_best_model=None)
    return types.SimpleNamespace(state=types.SimpleNamespace(global_step=step, epoch=0.5), args=args)


def test_each_evaluation_is_sent_once_with_its_page(evaluator, tmp_path):
    swanlab = fake_logger(get_run=object)
    callbacks = [make_callback("SwanLabCallback", _swanlab=swanlab)]
    for step in (10, 10, 20):  # two evaluation sets at step 10
        evaluator.metrics(make_trainer(step))
        evaluator.send_examples(callbacks)
    assert [named for _, named in swanlab.calls] == [{"step": 10}, {"step": 20}]
    page = (tmp_path / "out" / "simulsa_eval.html").read_text(encoding="utf-8")
    assert "Examples of step 20" in page and "data:audio/mpeg;base64," in page
    assert "<b>guten" not in page and "&lt;b&gt;guten" in page


def test_what_cannot_be_logged_is_said_and_costs_nothing(evaluator, tmp_path, capsys):
    evaluator.metrics(make_trainer(10))
    (tmp_path / "out" / "simulsa_eval.png").unlink()
    evaluator.send_examples([])
    assert "the examples of step 10 could not be logged: FileNotFoundError" in capsys.readouterr().err
    assert "eval_simul_k500_b0_bleu" in evaluator.metrics(make_trainer(20))


def test_the_page_depends_on_the_evaluations_alone(plan, sessions, examples, tmp_path):
    history = History(tmp_path)
    rows = score_cells(plan, sessions)
    for name in ("a.html", "b.html"):
        history.drop_after(0)
        write_training_page(tmp_path / name, history.add(5, 0.1, 1.0, rows), examples)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
