"""A target without reordering: the German of the embedded corpus in the order of the English.

Does the gain of simultaneous training depend on reordering? To answer, the target must differ in nothing else. A real
language with English word order (Norwegian, but for inversion after a fronted time) would also change words, lengths
and tokens: the packaged tokenizer is German, and a rollback of b tokens would be another length of text. So every
sentence keeps its German words, articles and endings included, in the order of the English: *Der König hat verkauft die
Lampe auf dem Markt nach dem Essen.* The remaining delays are agreement (article and adjective depend on their noun) and
punctuation: whether a full stop, a comma or nothing follows the last word of an object, a place or a time is certain
one English word later.

The packaged model was not trained on this target: an offline fine-tuning on `demo` makes the model with which
`simulsa-augment` scores and from which both arms start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from simulsa_plugin.demo.corpus import OFFLINE_NAME, messages
from simulsa_plugin.demo.grammar import MATRICES, MODALS, PEOPLE, PLACES, THINGS, TIMES, VERBS, Sentence
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.experiments.variants_data import Augmented, DataRow, Dataset, sharegpt

_MATRICES, _MODALS = dict(MATRICES), dict(MODALS)
_PARTICIPLES = {past: participle for past, _, participle, _ in VERBS}
_INFINITIVES = {infinitive: german for _, infinitive, _, german in VERBS}
Meaning = TypeVar("Meaning")
Word = tuple[str, int]  # German, and the number of English words after which it is certain


def monotone_target(data: Augmented, evaluation_sets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Make `demo` and evaluation sets with the same audio, the reordered target, and its truth.

    Raises:
        DatasetError: a sentence is not from the embedded corpus.
    """
    sets = {OFFLINE_NAME: sharegpt(data.offline_rows(), data.truth.rows), **evaluation_sets}
    return {name: _reorder_rows(one.rows, one.truth) for name, one in sets.items()}


def in_english_order(sentence: Sentence) -> Sentence:
    """Put the German words into the order of the English.

    Raises:
        DatasetError: the sentence is not from the embedded corpus.

    >>> source = "yesterday the man bought a car".split()
    >>> german = in_english_order(Sentence(tuple(source), tuple("Gestern hat der Mann ein Auto gekauft.".split()),
    ...                                    (1, 4, 4, 4, 7, 7, 7)))
    >>> list(zip(german.target, german.needs))
    [('Gestern', 1), ('der', 3), ('Mann', 3), ('hat', 4), ('gekauft', 4), ('ein', 6), ('Auto.', 7)]
    """
    words = list(_reorder_sentence(_PhraseReader(sentence.source), [word.strip(",.") for word in sentence.target]))
    target = [word for word, _ in words]
    target[0] = target[0][0].upper() + target[0][1:]
    target[-1] += "."
    needs = np.maximum.accumulate([need for _, need in words]).tolist()
    return Sentence(sentence.source, tuple(target), tuple(needs))


class _PhraseReader:
    """Reads English words phrase by phrase."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.position = words, 0

    def read(self, phrases: Mapping[str, Meaning]) -> Meaning | None:
        """Read the next phrase; return its meaning, or None where it is not one of these."""
        for phrase in sorted(phrases, key=len, reverse=True):
            length = len(phrase.split())
            if " ".join(self.words[self.position : self.position + length]) == phrase:
                self.position += length
                return phrases[phrase]
        return None

    def read_required(self, phrases: Mapping[str, Meaning]) -> Meaning:
        """As `read`, but raise DatasetError where it is not one of these."""
        found = self.read(phrases)
        if found is None:
            raise self.error()
        return found

    def error(self) -> DatasetError:
        return DatasetError(f"“{' '.join(self.words)}” is not a sentence of the embedded corpus.")


def _reorder_sentence(reader: _PhraseReader, german: list[str]) -> Iterator[Word]:
    matrix = reader.read(_MATRICES)
    yield from (
        (word, position) for position, word in enumerate((matrix or "").split(), 1)
    )  # same order in both languages
    end = german.index("weil") if "weil" in german else len(german)
    clause = list(_reorder_clause(reader, german[:end]))
    if reader.read({"because": "weil"}):
        last, need = clause[-1]
        clause[-1] = (f"{last},", need)
        clause += [("weil", reader.position), *_reorder_clause(reader, german[end + 1 :])]
    if reader.position < len(reader.words):
        raise reader.error()
    yield from clause


def _reorder_clause(reader: _PhraseReader, german: list[str]) -> Iterator[Word]:
    if fronted := reader.read(TIMES):
        yield from _certain_at(fronted.split(), reader.position)
    yield from _certain_at(_read_noun_phrase(reader, PEOPLE, german), reader.position)
    yield from _reorder_verb(reader)
    yield from _certain_after(_read_noun_phrase(reader, THINGS, german), reader.position)
    for phrases in (PLACES, TIMES):
        if phrase := reader.read(phrases):
            yield from _certain_after(phrase.split(), reader.position)


def _reorder_verb(reader: _PhraseReader) -> Iterator[Word]:
    modal = reader.read(_MODALS)
    if modal:
        yield modal, reader.position
        yield reader.read_required(_INFINITIVES), reader.position
    else:
        yield from _certain_at(["hat", reader.read_required(_PARTICIPLES)], reader.position)


def _read_noun_phrase(reader: _PhraseReader, nouns: Mapping[str, tuple[str, str]], german: list[str]) -> list[str]:
    """Read article, adjective and noun of the German clause; both languages have the same number of words."""
    start = reader.position
    while reader.position < len(reader.words):
        noun = reader.read(nouns)
        if noun is None:
            reader.position += 1
            continue
        end = german.index(noun[0]) + 1 if noun[0] in german else 0
        article, *rest = german[max(0, end - (reader.position - start)) : end] or [""]
        return [article.lower(), *rest]
    raise reader.error()


def _certain_at(words: Iterable[str], need: int) -> Iterator[Word]:
    return ((word, need) for word in words)


def _certain_after(words: Sequence[str], need: int) -> Iterator[Word]:
    """Yield a phrase that may end the clause: its punctuation is certain one English word later."""
    yield from _certain_at(words[:-1], need)
    yield words[-1], need + 1


def _reorder_rows(rows: Sequence[DataRow], truth: Sequence[DataRow]) -> Dataset:
    other_rows: list[dict[str, Any]] = []
    other_truth: list[dict[str, Any]] = []
    for row, known in zip(rows, truth, strict=True):
        german = Sentence(tuple(known["source"].split()), tuple(known["target"]), tuple(known["needs"]))
        sentence = in_english_order(german)
        other_rows.append({**row, "messages": messages(sentence)})
        other_truth.append({**known, "target": list(sentence.target), "needs": list(sentence.needs)})
    return sharegpt(other_rows, other_truth)
