"""The forms of corpora, by the name that `simulsa_corpus` gives them."""

from __future__ import annotations

from simulsa_plugin.corpora.corpus_settings import CORPORA
from simulsa_plugin.corpora.formats import covost2, europarl_st, fleurs, kaldi, lhotse, mustc, nemo, table
from simulsa_plugin.corpora.utterance import Form

FORMS: dict[str, Form] = dict(
    zip(
        CORPORA,
        [module.FORM for module in (covost2, mustc, fleurs, europarl_st, kaldi, nemo, lhotse, table)],
        strict=True,
    )
)
