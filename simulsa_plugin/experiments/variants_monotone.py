"""A target without reordering: the German of the embedded corpus in the order of the English.

Does the gain of simultaneous training depend on reordering? The answer needs a target that differs in nothing else.
A real language that follows English in these sentences (Norwegian does, but for inversion after a fronted time) would
also change words, lengths and, above all, tokens: the packaged tokenizer knows German, and a rollback of b tokens would
be another length of text. So every sentence keeps its German words, articles and endings included, where the English
has them: *Der König hat verkauft die Lampe auf dem Markt nach dem Essen.* What is left of waiting is agreement (article
and adjective wait for their noun) and punctuation: whether a full stop, a comma or nothing follows the last word of an
object, a place or a time is certain one English word later.

The packaged model does not know this target. An offline fine-tuning on `demo` makes the model that `simulsa-augment`
scores with and that both arms start from.
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
T = TypeVar("T")
Word = tuple[str, int]  # German, and the number of English words after which it is certain


def monotone_target(data: Augmented, evaluation_sets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """`demo` and evaluation sets with the same audio and the other target, and the truth about it.

    Raises:
        DatasetError: a sentence is none of the embedded corpus.
    """
    sets = {OFFLINE_NAME: sharegpt(data.offline_rows(), data.truth.rows), **evaluation_sets}
    return {name: _reordered(one.rows, one.truth) for name, one in sets.items()}


def in_english_order(sentence: Sentence) -> Sentence:
    """The same German words in the order of the English.

    Raises:
        DatasetError: the sentence is none of the embedded corpus.

    >>> source = "yesterday the man bought a car".split()
    >>> german = in_english_order(Sentence(tuple(source), tuple("Gestern hat der Mann ein Auto gekauft.".split()),
    ...                                    (1, 4, 4, 4, 7, 7, 7)))
    >>> list(zip(german.target, german.needs))
    [('Gestern', 1), ('der', 3), ('Mann', 3), ('hat', 4), ('gekauft', 4), ('ein', 6), ('Auto.', 7)]
    """
    words = list(_sentence(_Reader(sentence.source), [word.strip(",.") for word in sentence.target]))
    target = [word for word, _ in words]
    target[0] = target[0][0].upper() + target[0][1:]
    target[-1] += "."
    needs = np.maximum.accumulate([need for _, need in words]).tolist()
    return Sentence(sentence.source, tuple(target), tuple(needs))


class _Reader:
    """English words, read phrase by phrase."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.position = words, 0

    def take(self, phrases: Mapping[str, T]) -> T | None:
        """What the phrase that comes next means; None where none of these comes."""
        for phrase in sorted(phrases, key=len, reverse=True):
            length = len(phrase.split())
            if " ".join(self.words[self.position : self.position + length]) == phrase:
                self.position += length
                return phrases[phrase]
        return None

    def must_take(self, phrases: Mapping[str, T]) -> T:
        """As `take`. Raises DatasetError where none comes."""
        found = self.take(phrases)
        if found is None:
            raise self.wrong()
        return found

    def wrong(self) -> DatasetError:
        return DatasetError(f"“{' '.join(self.words)}” is no sentence of the embedded corpus.")


def _sentence(reader: _Reader, german: list[str]) -> Iterator[Word]:
    matrix = reader.take(_MATRICES)
    yield from ((word, position) for position, word in enumerate((matrix or "").split(), 1))  # they run parallel
    end = german.index("weil") if "weil" in german else len(german)
    clause = list(_clause(reader, german[:end]))
    if reader.take({"because": "weil"}):
        last, need = clause[-1]
        clause[-1] = (f"{last},", need)
        clause += [("weil", reader.position), *_clause(reader, german[end + 1 :])]
    if reader.position < len(reader.words):
        raise reader.wrong()
    yield from clause


def _clause(reader: _Reader, german: list[str]) -> Iterator[Word]:
    if fronted := reader.take(TIMES):
        yield from _certain(fronted.split(), reader.position)
    yield from _certain(_noun_phrase(reader, PEOPLE, german), reader.position)
    yield from _verb(reader)
    yield from _ending(_noun_phrase(reader, THINGS, german), reader.position)
    for phrases in (PLACES, TIMES):
        if said := reader.take(phrases):
            yield from _ending(said.split(), reader.position)


def _verb(reader: _Reader) -> Iterator[Word]:
    modal = reader.take(_MODALS)
    if modal:
        yield modal, reader.position
        yield reader.must_take(_INFINITIVES), reader.position
    else:
        yield from _certain(["hat", reader.must_take(_PARTICIPLES)], reader.position)


def _noun_phrase(reader: _Reader, nouns: Mapping[str, tuple[str, str]], german: list[str]) -> list[str]:
    """Article, adjective and noun as they stand in the German clause; both languages have as many words."""
    start = reader.position
    while reader.position < len(reader.words):
        noun = reader.take(nouns)
        if noun is None:
            reader.position += 1
            continue
        end = german.index(noun[0]) + 1 if noun[0] in german else 0
        article, *rest = german[max(0, end - (reader.position - start)) : end] or [""]
        return [article.lower(), *rest]
    raise reader.wrong()


def _certain(words: Iterable[str], need: int) -> Iterator[Word]:
    return ((word, need) for word in words)


def _ending(words: Sequence[str], need: int) -> Iterator[Word]:
    """A phrase that may end the clause: what follows its last word is certain one English word later."""
    yield from _certain(words[:-1], need)
    yield words[-1], need + 1


def _reordered(rows: Sequence[DataRow], truth: Sequence[DataRow]) -> Dataset:
    other_rows: list[dict[str, Any]] = []
    other_truth: list[dict[str, Any]] = []
    for row, known in zip(rows, truth, strict=True):
        german = Sentence(tuple(known["source"].split()), tuple(known["target"]), tuple(known["needs"]))
        sentence = in_english_order(german)
        other_rows.append({**row, "messages": messages(sentence)})
        other_truth.append({**known, "target": list(sentence.target), "needs": list(sentence.needs)})
    return sharegpt(other_rows, other_truth)
