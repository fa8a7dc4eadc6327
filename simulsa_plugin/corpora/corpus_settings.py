"""The `simulsa_*` keys of a raw corpus."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simulsa_plugin.errors import UsageError
from simulsa_plugin.files.remote import check_address
from simulsa_plugin.settings import Settings, check_choice, check_range

LONG_FORM = "longform"  # the format of whole recordings
_UNSAFE = re.compile(r"[^\w.+-]+")  # in names of files, and of datasets, which a recipe separates by commas


@dataclass(frozen=True)
class CorpusSettings(Settings):
    """Which corpus to read, where it lies, and what to take of it.

    Attributes:
        corpus: format of a raw corpus: `covost2`, `mustc`, `fleurs`, `europarl_st`, `kaldi`, `nemo`, `lhotse`, `table`,
            `webdataset`, `longform`; not set: the recipe's datasets are LLaMA-Factory's own.
        corpus_dir: folder of the corpus; for a manifest or a table also the file itself; for `table` and `webdataset`
            also an address, such as `s3://bucket/folder`.
        audio_dir: a second folder with its audio, if that is not inside `simulsa_corpus_dir`; also an address.
        audio_in_place: rows name the audio inside parquet files where it is, and nothing is written to files; in a
            store it is always so.
        source_language: as the corpus writes it (`en`, `en_us`).
        target_language: as the corpus writes it; `simulsa-eval` also takes latency unit and tokenizer from it.
        split: splits to train on, as the corpus writes them; not set: the format's own.
        eval_split: splits that `simulsa-eval` decodes.
        dev_split: splits on which `simulsa-eval tune` chooses settings.
        prompt: name of a published prompt, or the prompt itself; not set: that of the template.
        columns: names of a table's columns, role to column.
        references: of `longform`, the file with a reference a line; not set: the one beside the list of segments.
        recordings: of `longform`, a file with the path of a recording a line; not set: recordings are found by name.
        corpus_whole: `simulsa-eval` takes whole recordings with their reference segments, and cuts nothing; of
            `longform` it does with `simulsa_longform`, and cuts the segments without.
        corpus_max_seconds: leave out longer utterances, and count them.
        corpus_workers: threads that read audio; not set: one for each core.
    """

    corpus: str | None = None
    corpus_dir: str | None = None
    audio_dir: str | None = None
    audio_in_place: bool = False
    source_language: str | None = None
    target_language: str | None = None
    split: tuple[str, ...] = ()
    eval_split: tuple[str, ...] = ()
    dev_split: tuple[str, ...] = ()
    prompt: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    references: str | None = None
    recordings: str | None = None
    corpus_whole: bool = False
    corpus_max_seconds: float | None = None
    corpus_workers: int | None = None

    def __post_init__(self) -> None:
        if self.corpus is not None:
            check_choice("simulsa_corpus", self.corpus, _formats())
        if self.corpus_dir is not None and self.corpus is None:
            raise UsageError(
                "simulsa_corpus_dir is set, but not what lies there. "
                f"Set simulsa_corpus to one of {', '.join(_formats())}."
            )
        for key in ("references", "recordings"):
            if getattr(self, key) is not None and self.corpus != LONG_FORM:
                got = self.corpus or "not set"
                raise UsageError(f"simulsa_{key} is for simulsa_corpus={LONG_FORM}, and simulsa_corpus is {got}.")
        for key in ("corpus_dir", "audio_dir"):
            if "://" in (getattr(self, key) or ""):
                check_address(f"simulsa_{key}", getattr(self, key))
        if self.address and self.corpus not in _stored_formats():
            raise UsageError(
                f"simulsa_corpus_dir is an address, and {self.corpus} is read from a folder on this machine; "
                f"allowed in a store: {', '.join(_stored_formats())}."
            )
        check_range("simulsa_corpus_max_seconds", self.corpus_max_seconds, above=0)
        check_range("simulsa_corpus_workers", self.corpus_workers, minimum=1, maximum=256)

    @property
    def folder(self) -> Path:
        """Where the corpus lies, absolute.

        Raises:
            UsageError: the recipe does not say, or nothing is there.
        """
        if self.corpus_dir is None:
            raise UsageError(f"The recipe does not say where {self.corpus} lies on disk. Add simulsa_corpus_dir=DIR.")
        return Path(self.address) if self.address else _existing("simulsa_corpus_dir", self.corpus_dir)

    @property
    def address(self) -> str | None:
        """The address of a corpus in a store, or None."""
        return _address(self.corpus_dir)

    @property
    def place(self) -> str:
        """`folder` or `address`, for records and messages. Raises as `folder`."""
        return self.address or str(self.folder)

    @property
    def audio_folder(self) -> Path | None:
        """The second folder of audio, absolute, or None where there is none on this machine.

        Raises:
            UsageError: nothing is there.
        """
        local = self.audio_dir is not None and not self.audio_address
        return _existing("simulsa_audio_dir", str(self.audio_dir)) if local else None

    @property
    def audio_address(self) -> str | None:
        """The address of the second folder of audio, or None."""
        return _address(self.audio_dir)

    @property
    def references_file(self) -> Path | None:
        """The file of references, absolute, or None.

        Raises:
            UsageError: nothing is there.
        """
        return None if self.references is None else _existing("simulsa_references", self.references, "file")

    @property
    def recordings_file(self) -> Path | None:
        """The list of recordings, absolute, or None.

        Raises:
            UsageError: nothing is there.
        """
        return None if self.recordings is None else _existing("simulsa_recordings", self.recordings, "file")

    def name(self, split: tuple[str, ...]) -> str:
        """Return the default name of the dataset: `covost2_en_zh`, `covost2_en_zh_test`.

        >>> CorpusSettings(corpus="mustc", source_language="en", target_language="de").name(("tst-COMMON",))
        'mustc_en_de_tst-COMMON'
        """
        # The split that training takes goes without saying; `validated` of a table does not.
        splits = [part for part in split if not part.startswith("train")]
        whole = "whole" if self.corpus_whole and self.corpus != LONG_FORM else None
        parts = [self.corpus, self.source_language, self.target_language, *splits, whole]
        return "_".join(_UNSAFE.sub("-", part) for part in parts if part)


def _formats() -> list[str]:
    from simulsa_plugin.corpora.formats.registry import FORMATS  # its readers need NumPy, which --help does without

    return list(FORMATS)


def _stored_formats() -> list[str]:
    from simulsa_plugin.corpora.formats.registry import FORMATS

    return [name for name, form in FORMATS.items() if form.stored]


def _address(value: str | None) -> str | None:
    return value.rstrip("/") if value and "://" in value else None


def _existing(key: str, value: str, what: str = "folder of the corpus") -> Path:
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise UsageError(f"{key} is {value}: nothing is there. Give the {what}.")
    return path
