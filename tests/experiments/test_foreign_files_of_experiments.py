"""An experiment writes over nothing that somebody else has put into its output folder."""

import pytest
from helpers.files import tree

from simulsa_plugin.errors import StorageError
from simulsa_plugin.experiments import __main__ as program
from simulsa_plugin.experiments import runs
from simulsa_plugin.experiments.description import Arm, Experiment, Run

RUN = Run(recipe="recipe.yaml", content="", augment=None, train={}, evaluate={}, seed=1)
EXPERIMENT = Experiment("mixing", "Mixing", (Arm("offline", (RUN,), "rollback"),))
NAME = f"{RUN.model_name}_data"


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_training_data_signature", lambda *_: "data")
    monkeypatch.setattr(runs, "_run_command", None)  # nothing may be called
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("name", ["mixing.json", "mixing.png", f"{NAME}/notes.txt", f"{NAME}/model/a.bin"])
def test_what_others_have_put_there_stays(out, name):
    (out / name).parent.mkdir(exist_ok=True, parents=True)
    (out / name).write_bytes(b"mine")
    mine = tree(out)
    with pytest.raises(StorageError, match="was not made by this command, and stays as it is"):
        program._run_experiment(EXPERIMENT, [1], out, out)
    assert mine.items() <= tree(out).items()


@pytest.mark.parametrize("name", ["mixing.txt", NAME])
def test_no_link_is_followed(out, name):
    (out / name).symlink_to(out.parent / "elsewhere")
    with pytest.raises(StorageError, match="is a link and will not be written through"):
        program._run_experiment(EXPERIMENT, [1], out, out)
    assert not (out.parent / "elsewhere").exists()
