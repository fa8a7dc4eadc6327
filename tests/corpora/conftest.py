"""What tests of corpora share."""

import pytest
from prepared_corpora import write_covost2, write_mustc


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def covost2(tmp_path):
    return write_covost2(tmp_path / "cv" / "en")


@pytest.fixture
def mustc(tmp_path):
    return write_mustc(tmp_path / "mustc")
