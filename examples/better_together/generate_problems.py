"""Write problems.json: 1 000 word problems in one to four steps, with their worked reasoning, from a seeded generator.

    python examples/better_together/generate_problems.py

How a problem is made. A *setting* (a garden, a bakery, a bus, ...) has a quantity that sentences change: an opening
gives it, each further sentence adds, takes away, multiplies or shares out, and a question asks for it. Each sentence
that needs arithmetic is a *step*. Every sentence has several wordings. Two in five problems hold a *distractor*: a
sentence with a number that nothing depends on. Problems of one step use numbers up to 20; those of more steps larger
ones, and prices with cents.

What makes it safe to split. No two problems in the file have the same setting, operations and numbers, whatever their
names, things and wordings: so no problem of one split is another's near-copy, however the file is split. The wordings
themselves are shared by all splits: the test asks for known kinds of stories with other numbers.

The file's order is the split (800 train, 100 dev, 100 test), and each split holds the steps in the same proportions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

SPLITS = {"train": 800, "dev": 100, "test": 100}
STEPS = {1: 0.5, 2: 0.25, 3: 0.15, 4: 0.1}
"""Share of the problems with so many steps, in every split."""
DISTRACTED = 0.4
"""Share of the problems that hold a number nothing depends on."""

NAMES = (
    "Ada",
    "Ben",
    "Chloe",
    "Dario",
    "Emeka",
    "Farah",
    "Gustav",
    "Hana",
    "Ines",
    "Jamal",
    "Kira",
    "Leo",
    "Maya",
    "Nils",
)
NAMES += ("Oksana", "Pedro", "Quinn", "Rosa", "Samir", "Tessa", "Uma", "Viktor", "Wanda", "Xavier", "Yuki", "Zoe")


@dataclass(frozen=True)
class Setting:
    """A kind of story. In its sentences ``{n}`` is a number, ``{who}`` a name, ``{it}`` the things counted."""

    name: str
    things: tuple[str, ...]
    opening: tuple[str, ...]
    """Give the quantity: ``{n}``."""
    groups: tuple[str, ...]
    """Give it as ``{n}`` equal groups of ``{m}``: one step."""
    more: tuple[str, ...]
    less: tuple[str, ...]
    times: tuple[str, ...]
    """Multiply it by ``{n}``."""
    share: tuple[str, ...]
    """Share it out into ``{n}`` equal parts and ask for one of them: the last step."""
    question: tuple[str, ...]
    distractor: tuple[str, ...]
    prices: bool = False
    """Whether the numbers may have cents."""


SETTINGS = (
    Setting(
        "collection",
        ("stamps", "marbles", "stickers", "postcards", "coins", "shells"),
        ("{who} has {n} {it}.", "There are {n} {it} in {who}'s collection.", "{who} owns {n} {it}."),
        ("{who} has {n} albums with {m} {it} in each.", "{who} keeps {it} in {n} tins, {m} in every tin."),
        (
            "{who} gets {n} more from a cousin.",
            "At a fair {who} buys another {n}.",
            "{who} finds {n} more in the attic.",
            "For a birthday {who} is given {n} {it}.",
        ),
        (
            "{who} gives {n} of them to a friend.",
            "{n} of them get lost.",
            "{who} sells {n} {it}.",
            "{who} trades {n} of them for a comic book.",
        ),
        ("A year later {who} has {n} times as many.", "An aunt's gift makes it {n} times as many."),
        (
            "{who} shares them equally between {n} friends. How many {it} does each friend get?",
            "{who} puts them into {n} boxes, the same number in each. How many {it} are in one box?",
        ),
        ("How many {it} does {who} have now?", "How many {it} are there now?", "What is the number of {it} now?"),
        ("{who} is {n} years old.", "A neighbour has {n} toy cars.", "The first one was bought {n} months ago."),
    ),
    Setting(
        "garden",
        ("tomatoes", "carrots", "pumpkins", "apples", "pears", "roses"),
        ("{who} picks {n} {it} in the morning.", "There are {n} {it} in {who}'s basket.", "{who} harvests {n} {it}."),
        ("{who} plants {n} rows with {m} {it} in each row.", "In {who}'s garden grow {n} beds of {m} {it}."),
        (
            "After lunch {who} picks {n} more.",
            "A neighbour brings {n} {it} over the fence.",
            "Another {n} are ripe in the evening.",
            "{who} adds {n} {it} from the greenhouse.",
        ),
        (
            "{who} gives {n} of them to the neighbours.",
            "Snails spoil {n} of them.",
            "{who} throws away {n} bad ones.",
            "{n} {it} go to the kitchen.",
        ),
        ("With all the helpers' {it} there are {n} times as many.", "By Sunday it is {n} times that number."),
        (
            "{who} packs them into {n} crates, equally many in each. How many {it} are in a crate?",
            "They are divided equally among {n} families. How many {it} does each family get?",
        ),
        ("How many {it} does {who} have?", "How many {it} are there in the end?", "How many {it} are left for {who}?"),
        ("The garden is {n} metres long.", "It has not rained for {n} days.", "There are also {n} hens in the yard."),
    ),
    Setting(
        "bus",
        ("passengers", "people", "children", "tourists"),
        ("A bus leaves with {n} {it}.", "There are {n} {it} on the bus.", "{n} {it} sit in {who}'s bus."),
        ("{n} minibuses carry {m} {it} each.", "{who} counts {n} full carriages with {m} {it} in every one."),
        (
            "At the first stop {n} more get on.",
            "{n} {it} climb in at the market.",
            "Another {n} join at the station.",
            "At the school {n} {it} get on.",
        ),
        (
            "At the next stop {n} get off.",
            "{n} of them leave at the museum.",
            "{n} {it} get off at the bridge.",
            "At the hospital {n} step out.",
        ),
        ("At the terminus it is {n} times as many.", "In the rush hour the number is {n} times as high."),
        (
            "Then all of them go on in {n} taxis, the same number in each. How many {it} ride in one taxi?",
            "They form {n} groups of equal size. How many {it} are in a group?",
        ),
        ("How many {it} are on board now?", "How many {it} are there now?", "How many {it} does the driver count?"),
        ("The driver has worked for {n} years.", "The ride takes {n} minutes.", "A ticket costs {n} dollars."),
    ),
    Setting(
        "library",
        ("books", "magazines", "comics", "maps"),
        ("A shelf holds {n} {it}.", "{who} counts {n} {it} on the shelf.", "The school library has {n} {it}."),
        ("There are {n} shelves with {m} {it} on each.", "{who} unpacks {n} boxes, each with {m} {it}."),
        (
            "{who} puts {n} more on it.",
            "Readers bring back {n} {it}.",
            "The library buys {n} new {it}.",
            "A teacher donates another {n}.",
        ),
        (
            "{who} borrows {n} of them.",
            "{n} {it} are lent out.",
            "{n} of them are too old and are thrown away.",
            "A class takes {n} {it} along.",
        ),
        (
            "After the merger with another library it is {n} times as many.",
            "Ten years later there are {n} times as many.",
        ),
        (
            "They are spread equally over {n} tables. How many {it} are on one table?",
            "{n} classes get the same number each. How many {it} does a class get?",
        ),
        (
            "How many {it} are there now?",
            "How many {it} does the library have now?",
            "How many {it} can {who} count now?",
        ),
        ("The library opens at {n} o'clock.", "{n} pupils are reading.", "The thickest one has {n} chapters."),
    ),
    Setting(
        "bakery",
        ("rolls", "muffins", "cookies", "pretzels", "bagels"),
        ("{who} bakes {n} {it}.", "A bakery starts the day with {n} {it}.", "There are {n} {it} on the counter."),
        ("{who} fills {n} trays with {m} {it} each.", "The oven takes {n} trays of {m} {it}, and all are used."),
        (
            "Then {who} bakes {n} more.",
            "A second oven gives another {n}.",
            "{n} {it} come out of the oven.",
            "The apprentice adds {n} {it}.",
        ),
        (
            "{n} of them are sold before noon.",
            "{who} eats {n} of them.",
            "A customer buys {n} {it}.",
            "{n} are burnt and go to the bin.",
        ),
        ("With those from the freezer it is {n} times as many.", "For a wedding it has to be {n} times as many."),
        (
            "They are put into {n} bags, the same number in each. How many {it} are in a bag?",
            "{n} cafes get equal parts of them. How many {it} does one cafe get?",
        ),
        ("How many {it} are there now?", "How many {it} are on the counter then?", "How many {it} does that make?"),
        ("The dough rests for {n} minutes.", "The bakery has {n} workers.", "A coffee costs {n} dollars."),
    ),
    Setting(
        "walk",
        ("kilometres", "miles"),
        (
            "{who} walks {n} {it} on the first day.",
            "{who} has cycled {n} {it}.",
            "The path to the hut is {n} {it} long.",
        ),
        ("{who} walks {m} {it} a day for {n} days.", "{who} runs {n} rounds of {m} {it} each."),
        (
            "Then {who} goes {n} {it} further.",
            "The next day it is another {n}.",
            "A detour adds {n} {it}.",
            "After a rest {who} does {n} more.",
        ),
        (
            "A shortcut saves {n} {it}.",
            "{who} takes the bus for {n} {it} of it.",
            "{n} {it} of it are skipped because of a storm.",
            "A ferry replaces {n} {it}.",
        ),
        (
            "On the way back over the hills it is {n} times that distance.",
            "A new plan makes the way {n} times as long.",
        ),
        (
            "The distance is split into {n} equal stages. How many {it} is one stage?",
            "{n} runners share it equally. How many {it} does each one run?",
        ),
        (
            "How many {it} is the way then?",
            "How many {it} are to be covered now?",
            "What is the distance now, in {it}?",
        ),
        ("The backpack weighs {n} kilograms.", "{who} drinks {n} cups of water.", "They meet {n} cows on the way."),
    ),
    Setting(
        "purse",
        ("dollars", "euros", "pounds"),
        ("{who} has {n} {it}.", "There are {n} {it} in {who}'s purse.", "{who} has saved {n} {it}."),
        ("{who} sells {n} tickets at {m} {it} each.", "{who} works {n} hours for {m} {it} an hour."),
        (
            "Grandmother gives {who} {n} {it}.",
            "{who} earns another {n}.",
            "{who} finds {n} {it} in a coat.",
            "A friend pays back {n} {it}.",
        ),
        (
            "{who} buys a book for {n} {it}.",
            "Lunch costs {n} {it}.",
            "{who} spends {n} {it} on a present.",
            "{who} lends {n} {it} to a brother.",
        ),
        ("A month later it is {n} times as much.", "With the profit it becomes {n} times as much."),
        (
            "The money is shared equally by {n} children. How many {it} does each child get?",
            "It has to last for {n} weeks, equally much for each. How many {it} is that a week?",
        ),
        (
            "How many {it} does {who} have now?",
            "How much money is there now, in {it}?",
            "How many {it} are in the purse?",
        ),
        ("The shop closes in {n} minutes.", "The purse is {n} years old.", "There are {n} people in the queue."),
        prices=True,
    ),
    Setting(
        "tank",
        ("litres", "gallons"),
        (
            "A tank holds {n} {it} of water.",
            "There are {n} {it} in {who}'s barrel.",
            "{who} fills {n} {it} into a pool.",
        ),
        ("{who} empties {n} buckets of {m} {it} into the tank.", "A pump brings {m} {it} an hour for {n} hours."),
        (
            "Rain adds {n} {it}.",
            "{who} pours in {n} more.",
            "A hose brings another {n} {it}.",
            "A neighbour fills in {n} {it}.",
        ),
        (
            "{n} {it} leak out.",
            "{who} takes out {n} {it} for the flowers.",
            "The cows drink {n} {it}.",
            "The sun dries up {n} {it}.",
        ),
        ("After the storm there are {n} times as many {it}.", "A new pump makes it {n} times as much."),
        (
            "The water is filled into {n} equal barrels. How many {it} are in one barrel?",
            "It is used up in {n} days, the same amount each day. How many {it} is that a day?",
        ),
        ("How many {it} are in it now?", "How many {it} of water are there now?", "How many {it} does that make?"),
        ("The tank is {n} feet high.", "The farm has {n} goats.", "{who} paid {n} dollars for the hose."),
    ),
)


@dataclass(frozen=True)
class Problem:
    """One problem, and what it was made of."""

    problem: str
    reasoning: str
    answer: float
    steps: int
    distractors: int
    recipe: tuple[str, ...]
    """Setting, operations with their numbers: what two problems must not share."""

    @property
    def row(self) -> dict[str, Any]:
        """What the file holds of it."""
        names = ("problem", "reasoning", "answer", "steps", "distractors")
        return {name: getattr(self, name) for name in names}


def generate(seed: int = 0) -> dict[str, list[Problem]]:
    """The problems of every split, in the order of the file."""
    rng = random.Random(seed)
    seen: set[tuple[str, ...]] = set()
    splits = {}
    for split, size in SPLITS.items():
        kinds = [
            (steps, i < round(DISTRACTED * size * share))
            for steps, share in STEPS.items()
            for i in range(round(size * share))
        ]
        rng.shuffle(kinds)
        splits[split] = [_new(rng, steps, distracted, seen) for steps, distracted in kinds]
    return splits


def _new(rng: random.Random, steps: int, distracted: bool, seen: set[tuple[str, ...]]) -> Problem:
    while True:
        made = _attempt(rng, rng.choice(SETTINGS), steps, distracted)
        if made is not None and made.recipe not in seen:
            seen.add(made.recipe)
            return made


def _attempt(rng: random.Random, setting: Setting, steps: int, distracted: bool) -> Problem | None:
    """A problem, or None where the numbers drawn do not work out."""
    who, it = rng.choice(NAMES), rng.choice(setting.things)
    most = {1: 20, 2: 40, 3: 60, 4: 90}[steps]
    cents = setting.prices and steps > 1 and rng.random() < 0.5

    def number(low: int, high: int) -> Fraction:
        whole = Fraction(rng.randint(low, high))
        return whole + Fraction(rng.choice((25, 50, 75)), 100) if cents and rng.random() < 0.7 else whole

    def say(wordings: Sequence[str], n: Fraction, m: Fraction | None = None) -> str:
        return rng.choice(wordings).format(n=_text(n), m=m and _text(m), who=who, it=it)

    kinds = _operations(rng, steps)
    sentences, reasoning, recipe = [], [], [setting.name]
    total = Fraction(0)
    for kind in kinds:
        before = total
        if kind == "opening":
            total = number(2 if steps == 1 else 5, most)
            sentences.append(say(setting.opening, total))
            recipe.append(f"= {total}")
            continue
        if kind == "groups":
            n, m = Fraction(rng.randint(2, 9)), number(2, 10 if steps == 1 else 15)
            total = n * m
            sentences.append(say(setting.groups, n, m))
            sign, before, n = "*", n, m
        elif kind == "more":
            n = number(2, most)
            total += n
            sentences.append(say(setting.more, n))
            sign = "+"
        elif kind == "less":
            n = number(2, most)
            total -= n
            sentences.append(say(setting.less, n))
            sign = "-"
        elif kind == "times":
            n = Fraction(rng.randint(2, 5))
            total *= n
            sentences.append(say(setting.times, n))
            sign = "*"
        else:
            n = Fraction(rng.randint(2, 9))
            total /= n
            sentences.append(say(setting.share, n))
            sign = "/"
        if total <= 0 or (total * 100).denominator != 1 or (total.denominator != 1 and not cents) or total > 2000:
            return None
        reasoning.append(f"{_text(before)} {sign} {_text(n)} = {_text(total)}")
        recipe.append(f"{sign} {_text(before) if kind == 'groups' else ''}{_text(n)}")
    if kinds[-1] != "share":
        sentences.append(say(setting.question, Fraction(0)))
    if distracted:
        place = rng.randint(1, len(sentences) - 1)  # never before the opening: "they" must have been named
        sentences.insert(place, say(setting.distractor, Fraction(rng.randint(2, 50))))
    return Problem(
        problem=" ".join(sentences),
        reasoning="; ".join(reasoning),
        answer=float(total),
        steps=steps,
        distractors=int(distracted),
        recipe=tuple(recipe),
    )


def _operations(rng: random.Random, steps: int) -> list[str]:
    """What happens in a problem of so many steps, in order."""
    kinds = ["groups"] if rng.random() < 0.3 else ["opening"]
    done = int(kinds == ["groups"])
    while done < steps:
        last = done == steps - 1
        kinds.append(rng.choice(("more", "more", "less", "less", "times", *(("share",) if last else ()))))
        done += 1
    return kinds


def _text(number: Fraction) -> str:
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.2f}"


def to_json(problems: Iterable[Problem]) -> str:
    """The file's text: one row a line."""
    return "[\n" + ",\n".join(json.dumps(p.row, ensure_ascii=False) for p in problems) + "\n]\n"


def main() -> None:
    path = Path(__file__).with_name("problems.json")
    path.write_text(to_json(p for problems in generate().values() for p in problems), encoding="utf-8")


if __name__ == "__main__":
    main()
