"""What tests of augmentation share; a file with another dataset has a `toy` of its own."""

import pytest
from helpers.fakes import make_dataset


@pytest.fixture(scope="package")
def toy(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("offline"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"
