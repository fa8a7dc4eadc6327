"""The formats of corpora, by their value of `simulsa_corpus`; a new one is a module here and a line below."""

from __future__ import annotations

from simulsa_plugin.corpora.formats.covost2 import read_covost2
from simulsa_plugin.corpora.formats.europarl_st import read_europarl_st
from simulsa_plugin.corpora.formats.fleurs import read_fleurs
from simulsa_plugin.corpora.formats.kaldi import read_kaldi
from simulsa_plugin.corpora.formats.lhotse import read_lhotse
from simulsa_plugin.corpora.formats.longform import read_longform
from simulsa_plugin.corpora.formats.mustc import read_mustc
from simulsa_plugin.corpora.formats.nemo import read_nemo
from simulsa_plugin.corpora.formats.table import read_table
from simulsa_plugin.corpora.formats.webdataset import read_webdataset
from simulsa_plugin.corpora.utterance import CorpusFormat

FORMATS: dict[str, CorpusFormat] = {
    "covost2": CorpusFormat(read_covost2, train_split="train", test_split="test"),
    "mustc": CorpusFormat(read_mustc, train_split="train", test_split="tst-COMMON"),
    "fleurs": CorpusFormat(read_fleurs, train_split="train", test_split="test"),
    "europarl_st": CorpusFormat(read_europarl_st, train_split="train", test_split="test"),
    "kaldi": CorpusFormat(read_kaldi),
    "nemo": CorpusFormat(read_nemo),
    "lhotse": CorpusFormat(read_lhotse),
    "table": CorpusFormat(read_table, stored=True),
    "webdataset": CorpusFormat(read_webdataset, stored=True),
    "longform": CorpusFormat(read_longform, whole=True),
}
