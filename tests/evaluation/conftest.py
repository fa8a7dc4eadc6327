"""What tests of evaluation share."""

import pytest

from simulsa_plugin.evaluation import block_decoding


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(block_decoding, "UTTERANCES_PER_BLOCK", 2)
