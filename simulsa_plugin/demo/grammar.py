"""English sentences with their German translation, and what of the English each German word rests on.

The two languages differ as they do in life: participles and infinitives close the German clause, *dass* and *weil* send
the finite verb behind them, a time that English says last stands in the German mid-field, indefinite objects follow it
and definite ones precede it, a fronted time turns subject and verb round, and articles and adjective endings wait for
the noun. A model that only knows whole sentences therefore has to guess when it hears half of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Option = TypeVar("Option")
PROMPT = "<audio>Translate the English speech into German."

# English noun: (German noun, gender)
PEOPLE = {
    "man": ("Mann", "m"),
    "woman": ("Frau", "f"),
    "child": ("Kind", "n"),
    "teacher": ("Lehrer", "m"),
    "doctor": ("Ärztin", "f"),
    "girl": ("Mädchen", "n"),
    "sister": ("Schwester", "f"),
    "brother": ("Bruder", "m"),
    "friend": ("Freund", "m"),
    "mother": ("Mutter", "f"),
    "father": ("Vater", "m"),
    "uncle": ("Onkel", "m"),
    "aunt": ("Tante", "f"),
    "baker": ("Bäcker", "m"),
    "singer": ("Sängerin", "f"),
    "driver": ("Fahrer", "m"),
    "king": ("König", "m"),
    "queen": ("Königin", "f"),
    "gardener": ("Gärtner", "m"),
    "cook": ("Köchin", "f"),
}
THINGS = {
    "book": ("Buch", "n"),
    "car": ("Auto", "n"),
    "house": ("Haus", "n"),
    "letter": ("Brief", "m"),
    "apple": ("Apfel", "m"),
    "table": ("Tisch", "m"),
    "lamp": ("Lampe", "f"),
    "bag": ("Tasche", "f"),
    "clock": ("Uhr", "f"),
    "picture": ("Bild", "n"),
    "key": ("Schlüssel", "m"),
    "coat": ("Mantel", "m"),
    "cup": ("Tasse", "f"),
    "map": ("Landkarte", "f"),
    "chair": ("Stuhl", "m"),
    "flower": ("Blume", "f"),
    "bicycle": ("Fahrrad", "n"),
    "cake": ("Kuchen", "m"),
    "shirt": ("Hemd", "n"),
    "door": ("Tür", "f"),
    "window": ("Fenster", "n"),
    "ring": ("Ring", "m"),
    "box": ("Kiste", "f"),
    "boat": ("Boot", "n"),
    "guitar": ("Gitarre", "f"),
    "mirror": ("Spiegel", "m"),
    "knife": ("Messer", "n"),
    "carpet": ("Teppich", "m"),
    "camera": ("Kamera", "f"),
    "piano": ("Klavier", "n"),
}
PEOPLE_ADJECTIVES = {
    "old": "alt",
    "young": "jung",
    "friendly": "freundlich",
    "tired": "müd",
    "happy": "glücklich",
    "clever": "klug",
    "famous": "berühmt",
    "poor": "arm",
}
THING_ADJECTIVES = {
    "new": "neu",
    "small": "klein",
    "big": "groß",
    "red": "rot",
    "blue": "blau",
    "green": "grün",
    "beautiful": "schön",
    "cheap": "billig",
    "heavy": "schwer",
    "yellow": "gelb",
    "broken": "kaputt",
    "strange": "seltsam",
}
# English past, English infinitive, German participle, German infinitive; all take haben and an accusative object
VERBS = (
    ("bought", "buy", "gekauft", "kaufen"),
    ("found", "find", "gefunden", "finden"),
    ("saw", "see", "gesehen", "sehen"),
    ("sold", "sell", "verkauft", "verkaufen"),
    ("brought", "bring", "gebracht", "bringen"),
    ("painted", "paint", "gemalt", "malen"),
    ("cleaned", "clean", "geputzt", "putzen"),
    ("repaired", "repair", "repariert", "reparieren"),
    ("lost", "lose", "verloren", "verlieren"),
    ("stole", "steal", "gestohlen", "stehlen"),
    ("carried", "carry", "getragen", "tragen"),
    ("hid", "hide", "versteckt", "verstecken"),
    ("needed", "need", "gebraucht", "brauchen"),
    ("described", "describe", "beschrieben", "beschreiben"),
    ("destroyed", "destroy", "zerstört", "zerstören"),
    ("photographed", "photograph", "fotografiert", "fotografieren"),
)
MODALS = (("wants to", "will"), ("must", "muss"), ("can", "kann"), ("should", "soll"), ("is allowed to", "darf"))
TIMES = {
    "yesterday": "gestern",
    "today": "heute",
    "this morning": "heute Morgen",
    "on monday": "am Montag",
    "on friday": "am Freitag",
    "last week": "letzte Woche",
    "last year": "letztes Jahr",
    "in the evening": "am Abend",
    "in winter": "im Winter",
    "after lunch": "nach dem Essen",
}
PLACES = {
    "in the garden": "im Garten",
    "in the kitchen": "in der Küche",
    "at the market": "auf dem Markt",
    "in the city": "in der Stadt",
    "at the station": "am Bahnhof",
    "in the school": "in der Schule",
    "in the park": "im Park",
    "at the beach": "am Strand",
    "in the village": "im Dorf",
    "in the forest": "im Wald",
}
MATRICES = (
    ("i believe that", "Ich glaube, dass"),
    ("she says that", "Sie sagt, dass"),
    ("we know that", "Wir wissen, dass"),
    ("he hopes that", "Er hofft, dass"),
    ("everyone thinks that", "Jeder denkt, dass"),
    ("they write that", "Sie schreiben, dass"),
)
_DEFINITE = {"nom": {"m": "der", "f": "die", "n": "das"}, "acc": {"m": "den", "f": "die", "n": "das"}}
_INDEFINITE = {"nom": {"m": "ein", "f": "eine", "n": "ein"}, "acc": {"m": "einen", "f": "eine", "n": "ein"}}
_WEAK = {"nom": {"m": "e", "f": "e", "n": "e"}, "acc": {"m": "en", "f": "e", "n": "e"}}
_MIXED = {"nom": {"m": "er", "f": "e", "n": "es"}, "acc": {"m": "en", "f": "e", "n": "es"}}


@dataclass(frozen=True)
class Sentence:
    """A sentence pair.

    Attributes:
        source: English words, lower case, as they are spoken.
        target: German words, with their punctuation.
        needs: for each German word, the number of English words after which it and all before it are certain; one more
            than there are words means: only the end of the utterance decides.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    needs: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.target) != len(self.needs) or not self.source:
            raise ValueError("a sentence needs English words, and as many needs as German words")

    @property
    def source_text(self) -> str:
        """The English as it is spoken."""
        return " ".join(self.source)

    @property
    def target_text(self) -> str:
        """The reference translation."""
        return " ".join(self.target)

    def supported_words(self, words_heard: int, ended: bool) -> int:
        """Count the German words that are certain after `words_heard` English words (and the end, if `ended`)."""
        heard = len(self.source) + 1 if ended else words_heard
        count = 0
        for need in self.needs:
            if need > heard:
                break
            count += 1
        return count


@dataclass
class _Phrase:
    """German words of one constituent and the English words it was said with: [start, end) in the source."""

    words: list[str]
    start: int
    end: int

    def certain_at(self) -> list[tuple[str, int]]:
        """Return words with the English words needed; inside a phrase the last English word decides."""
        return [(word, self.end) for word in self.words]


class _Writer:
    """The English words so far; every `write` returns the span of its words."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def write(self, text: str, german: str = "") -> _Phrase:
        start = len(self.words)
        self.words += text.split()
        return _Phrase(german.split(), start, len(self.words))


def sample_sentence(rng: np.random.Generator, max_words: int = 16) -> Sentence:
    """Draw a sentence of at most `max_words` English words."""
    while True:
        sentence = _draw(rng)
        if len(sentence.source) <= max_words:
            return sentence


def _draw(rng: np.random.Generator) -> Sentence:
    """Draw a main clause, a *dass* clause after a matrix, or a main clause with a *weil* clause."""
    writer = _Writer()
    target: list[tuple[str, int]] = []
    kind = rng.choice(["main", "that", "because"], p=[0.4, 0.35, 0.25])
    if kind == "that":
        matrix = writer.write(*_pick(rng, MATRICES))
        target += [(word, position + 1) for position, word in enumerate(matrix.words)]  # they run parallel
        target += _clause(writer, rng, verb_last=True, short=False)
    else:
        target += _clause(writer, rng, verb_last=False, short=kind == "because")
    if kind == "because":
        target[-1] = (target[-1][0] + ",", target[-1][1])
        target += writer.write("because", "weil").certain_at()
        target += _clause(writer, rng, verb_last=True, short=True)
    words = [word for word, _ in target]
    words[0] = words[0][0].upper() + words[0][1:]
    words[-1] += "."
    # The full stop belongs to the last word, and only the end of the utterance makes it certain.
    needs = [*(need for _, need in target[:-1]), len(writer.words) + 1]
    return Sentence(tuple(writer.words), tuple(words), tuple(np.maximum.accumulate(needs).tolist()))


def _clause(writer: _Writer, rng: np.random.Generator, *, verb_last: bool, short: bool) -> list[tuple[str, int]]:
    """Write an English clause; return its German words in German order, each with the English words it needs."""
    time = _pick(rng, tuple(TIMES.items())) if rng.random() < (0.25 if short else 0.6) else None
    fronted = time is not None and not verb_last and not short and rng.random() < 0.4
    place = _pick(rng, tuple(PLACES.items())) if rng.random() < (0.15 if short else 0.4) else None
    definite_object = bool(rng.random() < 0.5)

    first = [writer.write(*time)] if time and fronted else []
    subject = _noun_phrase(writer, rng, PEOPLE, PEOPLE_ADJECTIVES, bool(rng.random() < 0.7), "nom")
    finite, nonfinite = _verb(writer, rng)
    thing = _noun_phrase(writer, rng, THINGS, THING_ADJECTIVES, definite_object, "acc")
    places = [writer.write(*place)] if place else []
    times = [writer.write(*time)] if time and not fronted else []
    end = len(writer.words) + 1  # only what follows the clause shows that nothing more comes

    middle = (
        [thing, *_await(times, end), *_await(places, end)]
        if definite_object
        else [*_await(times, end), *_await(places, end), _awaiting(thing, end)]
    )
    closing = [_awaiting(nonfinite, end)]
    if verb_last:
        order = [subject, *middle, *closing, _awaiting(finite, end)]
    else:
        order = [*first, finite, subject, *middle, *closing] if fronted else [subject, finite, *middle, *closing]
    return [pair for phrase in order for pair in phrase.certain_at()]


def _await(phrases: list[_Phrase], end: int) -> list[_Phrase]:
    return [_awaiting(phrase, end) for phrase in phrases]


def _awaiting(phrase: _Phrase, end: int) -> _Phrase:
    """Make a phrase certain only when the clause has ended: until then a time or place could still go before it."""
    return _Phrase(phrase.words, phrase.start, end)


def _noun_phrase(
    writer: _Writer,
    rng: np.random.Generator,
    nouns: dict[str, tuple[str, str]],
    adjectives: dict[str, str],
    definite: bool,
    case: str,
) -> _Phrase:
    english, (german, gender) = _pick(rng, tuple(nouns.items()))
    adjective = _pick(rng, tuple(adjectives.items())) if rng.random() < 0.35 else None
    first_word = adjective[0] if adjective else english
    article = "the" if definite else ("an" if first_word[0] in "aeiou" else "a")
    german_article = (_DEFINITE if definite else _INDEFINITE)[case][gender]
    ending = (_WEAK if definite else _MIXED)[case][gender]
    german_words = [german_article, *([adjective[1] + ending] if adjective else []), german]
    english_words = [article, *([adjective[0]] if adjective else []), english]
    return writer.write(" ".join(english_words), " ".join(german_words))


def _verb(writer: _Writer, rng: np.random.Generator) -> tuple[_Phrase, _Phrase]:
    """Return the finite and the non-finite part: perfect tense for the English past, or a modal with an infinitive."""
    past, infinitive, participle, german_infinitive = _pick(rng, VERBS)
    if rng.random() < 0.35:
        modal, german_modal = _pick(rng, MODALS)
        return writer.write(modal, german_modal), writer.write(infinitive, german_infinitive)
    finite = writer.write(past, "hat")
    return finite, _Phrase([participle], finite.start, finite.end)


def _pick(rng: np.random.Generator, options: tuple[Option, ...]) -> Option:
    return options[int(rng.integers(len(options)))]
