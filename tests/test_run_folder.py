"""A run's folder: begun once, resumed by the same configuration alone, finished with what was begun."""

import pytest

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.checksums import read_sealed, write_sealed
from simulsa_plugin.run_configuration import RunFolder, read_sealed_configuration, write_configuration

CONFIGURATION = {"rows": 2, "settings": {"simulsa_seed": 1}}
SEALS = [(read_sealed_configuration, write_configuration), (read_sealed, write_sealed)]


@pytest.fixture(params=SEALS, ids=["lines", "sealed"])
def run(request, tmp_path):
    return RunFolder(tmp_path, tmp_path / "started.json", tmp_path / "manifest.json", "a run", *request.param)


def test_a_run_is_recorded_from_its_beginning_to_after_its_end(run):
    assert (run.record, run.recorded()) == (None, {})
    run.begin(CONFIGURATION)
    assert (run.record, run.recorded()) == (run.started, CONFIGURATION)
    run.finish({**CONFIGURATION, "counts": 5})
    assert (run.record, run.recorded()) == (run.finished, {**CONFIGURATION, "counts": 5})
    assert not run.started.exists()


def test_another_configuration_is_refused_with_its_first_difference_and_the_next_step(run):
    run.refuse_other({}, CONFIGURATION, "Choose.")  # nothing is recorded
    run.begin(CONFIGURATION)
    run.refuse_other(run.recorded(), CONFIGURATION, "Choose.")
    other = {"rows": 2, "settings": {"simulsa_seed": 3}}
    with pytest.raises(StorageError, match=r"holds a run with other settings: simulsa_seed was 1, now 3\. Choose\."):
        run.refuse_other(run.recorded(), other, "Choose.")
    with pytest.raises(StorageError, match=r"now 3\. Leave simulsa_seed out\."):
        run.refuse_other(run.recorded(), other, lambda keys: f"Leave {', '.join(keys)} out.")


def test_a_damaged_record_is_refused_or_taken_for_none(run):
    run.begin(CONFIGURATION)
    run.started.write_text(run.started.read_text(encoding="utf-8").replace("2", "3", 1), encoding="utf-8")
    if run.read is read_sealed:
        assert run.recorded() == {}
    else:
        with pytest.raises(StorageError, match="changed after it was written"):
            run.recorded()
