"""Made-up samples in LongBench's format: villages, chats, meetings, code; ``samples.jsonl`` is made of them.

``python -m tests.made_up_samples > data/measured/scores/samples.jsonl``, from the repository's root.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

Record = dict[str, Any]
Item = TypeVar("Item")

# Name, river, year, founder, craft, month of the fair, bell, keeper of the mill.
VILLAGES = (
    ("Orrenfeld", "Tamsel", 1412, "Ilva Dorn", "basket weaving", "May", "bronze", "Pitt Arlen"),
    ("Karvik", "Ossa", 1533, "Jorun Hale", "boat building", "August", "iron", "Mette Sund"),
    ("Dunmarrow", "Lesk", 1298, "Edda Quill", "paper making", "October", "silver", "Tomas Reeve"),
    ("Vessby", "Marn", 1671, "Olan Brisk", "glass blowing", "June", "copper", "Nela Forst"),
    ("Tillingen", "Ruhn", 1387, "Greta Vane", "clock making", "March", "brass", "Hugo Lamm"),
    ("Pellworth", "Adder", 1745, "Silas Crane", "bee keeping", "July", "steel", "Ansel Pike"),
    ("Hollin", "Sorrow", 1459, "Maud Ferrer", "rope making", "April", "tin", "Vera Stoll"),
    ("Brakka", "Ylva", 1604, "Niko Tarn", "leather tanning", "September", "stone", "Rasmus Eide"),
    ("Ostermoor", "Wend", 1350, "Clara Bode", "salt boiling", "February", "bell metal", "Jasper Noll"),
    ("Quenby", "Thistle", 1512, "Amos Redfern", "wool dyeing", "November", "glass", "Lotte Marr"),
)
FILLER = (
    "The road there is lined with old lime trees.",
    "In wet years the lower meadows stay under water until the hay is due.",
    "Most houses have slate roofs and small windows that face south.",
    "A carrier used to bring letters twice a week.",
    "The school has two rooms and a stove that smokes when the wind turns.",
    "Children fish for perch below the weir.",
    "Bread is still baked in the common oven on Saturdays.",
    "A stone bridge with three arches replaced the ford.",
    "The council meets above the smithy, which keeps the room warm.",
    "Storks nest on the chimney of the old brewery.",
    "Every household owes the parish one day of work on the dike.",
    "Travellers praised the beer and complained about the beds.",
    "The orchard on the hill bears small sour apples.",
    "Fog often lies in the valley until noon.",
    "An inventory of the parish lists forty chairs and one clock.",
    "Sheep are driven across the square on market days.",
    "The archive burned once, and much had to be written down from memory.",
    "Nobody remembers who planted the walnut by the well.",
    "A narrow path leads from the churchyard to the quarry.",
    "Winters are long, and sledges are mended in every yard.",
    "The innkeeper keeps a book in which guests write verses.",
    "Two brothers once quarrelled over a fence for thirty years.",
    "From the tower one sees the hills of the next county.",
    "The ferry ran until the ice came.",
    "Swallows return in the second week of spring.",
    "A painter from the city spent three summers there.",
    "The well is said to be the deepest of the district.",
    "On clear evenings the miller plays the fiddle.",
    "Firewood is stacked against the northern walls.",
    "The old customs house now holds a library of six hundred books.",
)
NAMES = ("Ada", "Bruno", "Cleo", "Dario", "Elin", "Fritz", "Gwen", "Hanno", "Iris", "Jonas", "Kaja", "Leo")
THINGS = ("tent", "ladder", "bicycle", "cake tin", "drill", "projector", "sleeping bag", "violin", "kettle")
PLACES = ("station", "library", "harbour", "bakery", "school gate", "town hall", "cinema", "old bridge")
TIMES = (
    "at six",
    "at noon",
    "on Friday",
    "on Sunday",
    "tomorrow morning",
    "after work",
    "at half past eight",
)
KINDS = {
    "Person": ("Who painted the doors of {place}?", "Who taught {name} to swim?"),
    "Place": ("Where is the {thing} kept?", "Where did {name} spend the winter?"),
    "Number": ("How many steps lead to the {place}?", "How many rivers cross the county of {village}?"),
    "Date": ("When was the {place} rebuilt?", "When does the fair of {village} begin?"),
    "Reason": ("Why was the {place} closed?", "Why do the people of {village} ring a bell at night?"),
    "Manner": ("How is a {thing} repaired?", "How does one get from the {place} to {village}?"),
    "Material": ("What is the roof of the {place} made of?", "What is the {thing} of {name} made of?"),
}


class Lots:
    """Draws that are the same with every version of Python, as `random.Random.random` is promised to be."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def one(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def some(self, items: Sequence[Item], n: int) -> list[Item]:
        return sorted(items, key=lambda _: self._random())[:n]

    def filler(self, n: int) -> str:
        return " ".join(self.some(FILLER, n))


def samples() -> list[Record]:
    """Return 24 samples of twelve datasets."""
    found = [
        *_fields(), *_papers(), *_two_steps(), *_meetings(), *_news(), *_types(), *_trivia(), *_chats(),
        *_counts(), *_retrieval(), *_code(),
    ]  # fmt: skip
    places: dict[str, int] = {}
    for record in found:
        place = places[record["dataset"]] = places.get(record["dataset"], -1) + 1
        record["_id"] = f"{record['dataset']}-{place}"
    return found


def jsonl() -> str:
    """Return the samples as a file has them."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in samples())


def _record(
    dataset: str, *, asked: str, context: str, answers: Sequence[str], classes: Sequence[str] | None = None
) -> Record:
    return {
        "input": asked,
        "context": context,
        "answers": list(answers),
        "length": len(f"{asked} {context}".split()),
        "dataset": dataset,
        "language": "en",
        "all_classes": None if classes is None else list(classes),
    }


def _chronicle(village: tuple[Any, ...], lots: Lots, *, filler: int) -> str:
    """Return a village's facts, one in each paragraph."""
    name, river, year, founder, craft, month, bell, miller = village
    facts = (
        f"{name} lies on the river {river}, on its left bank.",
        f"{name} was founded in {year}, as the oldest deed of the parish says.",
        f"Its founder was {founder}, whose house by the green still stands.",
        f"For centuries the people of {name} have lived on {craft}.",
        f"The yearly fair of {name} is held in {month}.",
        f"The great bell of {name} is made of {bell}.",
        f"The mill of {name} is kept by {miller}.",
    )
    return "\n\n".join(f"{fact} {lots.filler(filler)}" for fact in facts)


def _short(village: tuple[Any, ...], lots: Lots, *, filler: int = 4) -> str:
    name, river, year, founder, craft, month, _, _ = village
    return (
        f"{name} is a village on the river {river}. It was founded in {year} by {founder}. "
        f"{lots.filler(filler)} It is known for {craft}, and its fair is held in {month}."
    )


def _fields() -> Iterator[Record]:
    asked = (
        ("In which year was {} founded?", 2),
        ("Who founded {}?", 3),
        ("What is the great bell of {} made of?", 6),
    )
    for seed, (question, place) in enumerate(asked):
        village = VILLAGES[seed]
        yield _record(
            "multifieldqa_en",
            asked=question.format(village[0]),
            context=_chronicle(village, Lots(seed), filler=7 + 2 * seed),
            answers=[str(village[place])],
        )


def _papers() -> Iterator[Record]:
    studies = (
        ("bread ovens", "48 ovens", "loaves", "How many ovens did the authors observe?", "48 ovens"),
        ("beehives", "120 hives", "jars of honey", "Were the keepers told the aim of the study?", "no"),
    )
    for seed, (what, number, yields, question, answer) in enumerate(studies):
        lots = Lots(20 + seed)
        sections = (
            f"Abstract\nWe ask whether {what} that face south give more {yields} than those that face north. "
            f"Over two years they gave nine percent more. {lots.filler(4)}",
            f"Introduction\nEarlier work on {what} looked at single villages only. {lots.filler(6)}",
            f"Data\nWe observed {number} in five villages along the river {VILLAGES[seed][1]}. Each was "
            f"visited once a month. {lots.filler(6)}",
            f"Method\nThe {yields} were counted at dawn by two observers who did not know each other's "
            f"counts. The keepers were not told what the study was about. {lots.filler(6)}",
            f"Results\nThe southern {what} gave nine percent more {yields}, with an interval from four to "
            f"fourteen percent. {lots.filler(6)}",
            f"Discussion\nWind may explain a part of what we found. {lots.filler(5)}",
        )
        yield _record("qasper", asked=question, context="\n\n".join(sections), answers=[answer])


def _two_steps() -> Iterator[Record]:
    """Questions that need a person's passage and a village's."""
    plans = (
        ("hotpotqa", "Which river flows past the village where the singer {} was born?", 1),
        ("hotpotqa", "In which month is the fair of the village where the singer {} was born?", 5),
        ("hotpotqa", "Who founded the village where the singer {} was born?", 3),
        ("2wikimqa", "What craft is the birthplace of the singer {} known for?", 4),
        ("2wikimqa", "When was the birthplace of the singer {} founded?", 2),
    )
    for seed, (dataset, question, place) in enumerate(plans):
        lots = Lots(40 + seed)
        villages = lots.some(VILLAGES, 6 + seed % 3)
        singers = lots.some(("Runa Vald", "Emil Sorge", "Tilda Wren", "Oskar Lund"), 3)
        passages = [_short(village, lots) for village in villages]
        passages += [
            f"{singer} was a singer, born in {village[0]} as the child of a carter. {lots.filler(3)}"
            for singer, village in zip(singers, villages, strict=False)
        ]
        shuffled = lots.some(passages, len(passages))
        yield _record(
            dataset,
            asked=question.format(singers[0]),
            context="\n\n".join(f"Passage {n}:\n{text}" for n, text in enumerate(shuffled, 1)),
            answers=[str(villages[0][place])],
        )


def _meetings() -> Iterator[Record]:
    lots = Lots(60)
    decided = (
        ("the ferry", "The ferry will run until the first ice, and a ride will cost two coins."),
        ("the school stove", "The stove will be replaced before winter, and Hanno collects the money."),
        ("the market day", "The market moves to Thursday for one year, as a trial."),
    )
    turns = []
    for topic, decision in decided:
        for _ in range(7):
            turns.append(f"{lots.one(NAMES)}: About {topic}. {lots.filler(2)}")
        turns.append(f"Chair: Then it is agreed. {decision}")
    topic, decision = decided[0]
    yield _record(
        "qmsum", asked=f"What was decided about {topic}?", context="\n".join(turns), answers=[decision]
    )


def _news() -> Iterator[Record]:
    lots = Lots(61)
    articles = [
        f"A storm passed over Karvik on Tuesday night and tore the roof off the boat yard. {lots.filler(9)} "
        "Nobody was hurt. Mette Sund, who keeps the mill, opened it to families who had lost their roofs.",
        f"The river Ossa rose by two metres after the storm at Karvik, and the lower street was closed. "
        f"{lots.filler(9)} The county sent forty tents and a carpenter. The boat yard hopes to work "
        "again in May.",
    ]
    yield _record(
        "multi_news",
        asked="",
        context="\n\n".join(f"Article {n}:\n{text}" for n, text in enumerate(articles, 1)),
        answers=[
            "A storm at Karvik on Tuesday night tore the roof off the boat yard and raised the river Ossa by "
            "two metres, so that the lower street was closed. Nobody was hurt. The mill took in families, "
            "and the county sent forty tents and a carpenter; the boat yard hopes to work again in May."
        ],
    )


def _types() -> Iterator[Record]:
    for seed in range(3):
        lots = Lots(70 + seed)
        asked = [_typed(lots) for _ in range(46 + 10 * seed)]
        question, kind = asked[-1]
        yield _record(
            "trec",
            asked=f"Question: {question}\nType:",
            context="\n".join(f"Question: {one}\nType: {its}" for one, its in asked[:-1]),
            answers=[kind],
            classes=list(KINDS),
        )


def _typed(lots: Lots) -> tuple[str, str]:
    kind = lots.one(list(KINDS))
    question = lots.one(KINDS[kind]).format(
        place=lots.one(PLACES), name=lots.one(NAMES), thing=lots.one(THINGS), village=lots.one(VILLAGES)[0]
    )
    return question, kind


def _trivia() -> Iterator[Record]:
    for seed in range(2):
        lots = Lots(80 + seed)
        villages = lots.some(VILLAGES, 7)
        shown = [
            f"Passage:\n{_short(village, lots)}\nQuestion:\nWhat is {village[0]} known for?\nAnswer:\n"
            for village in villages
        ]
        solved = [f"{text}{village[4]}" for text, village in zip(shown, villages, strict=True)]
        yield _record(
            "triviaqa", asked=shown[-1], context="\n\n".join(solved[:-1]), answers=[villages[-1][4]]
        )


def _chats() -> Iterator[Record]:
    for seed in range(2):
        lots = Lots(90 + seed)
        chats = [_chat(lots) for _ in range(14 + 4 * seed)]
        asked, summary = chats[-1]
        yield _record(
            "samsum",
            asked=f"Dialogue: {asked}\nSummary:",
            context="\n\n".join(f"Dialogue: {said}\nSummary: {its}" for said, its in chats[:-1]),
            answers=[summary],
        )


def _chat(lots: Lots) -> tuple[str, str]:
    first, second = lots.some(NAMES, 2)
    thing, place, time = lots.one(THINGS), lots.one(PLACES), lots.one(TIMES)
    said = (
        f"{first}: Can I borrow your {thing}?\n{second}: Sure, but I need it back {time}.\n"
        f"{first}: No problem. Where shall we meet?\n{second}: Let us say by the {place}.\n{first}: Thanks!"
    )
    return said, f"{second} lends {first} a {thing} and needs it back {time}. They will meet by the {place}."


def _counts() -> Iterator[Record]:
    lots = Lots(100)
    texts = [_short(village, lots, filler=3) for village in VILLAGES[:7]]
    shuffled = lots.some([*texts, texts[1], texts[4]], 9)
    yield _record("passage_count", asked="", context=_numbered(shuffled), answers=[str(len(texts))])


def _retrieval() -> Iterator[Record]:
    for seed in range(2):
        lots = Lots(110 + seed)
        villages = lots.some(VILLAGES, 8 + 2 * seed)
        place = int(lots.one("24")) + seed
        name, river, year, _, craft, *_ = villages[place - 1]
        yield _record(
            "passage_retrieval_en",
            asked=f"A place by the river {river}, founded in {year}; people of {name} live on {craft}.",
            context=_numbered([_short(village, lots) for village in villages]),
            answers=[f"Paragraph {place}"],
        )


def _numbered(texts: Sequence[str]) -> str:
    return "\n\n".join(f"Paragraph {n}: {text}" for n, text in enumerate(texts, 1))


def _code() -> Iterator[Record]:
    for seed in range(2):
        lots = Lots(120 + seed)
        words = lots.some([thing.replace(" ", "_") for thing in THINGS], 8)
        lines = [
            "class Store:",
            '    """What a village shed holds."""',
            "",
            "    def __init__(self) -> None:",
        ]
        lines += [f"        self._{word} = {number}" for number, word in enumerate(words)]
        for word in words:
            lines += [
                "",
                f"    def add_{word}(self, number: int) -> None:",
                f'        """Bring a number of {word}s in."""',
                "        if number < 1:",
                f'            raise ValueError("bring at least one {word}")',
                f"        self._{word} += number",
                "",
                f"    def take_{word}(self, number: int) -> int:",
                f'        """Take a number of {word}s out."""',
                f"        taken = min(number, self._{word})",
                f"        self._{word} -= taken",
                "        return taken",
            ]
        # Ends at a line that the methods before tell.
        end = -1 if seed else -2
        yield _record("lcc", asked="", context="\n".join(lines[:end]) + "\n", answers=[lines[end]])


if __name__ == "__main__":
    sys.stdout.write(jsonl())
