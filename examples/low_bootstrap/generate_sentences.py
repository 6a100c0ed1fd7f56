"""Writes sentences.json: 1 000 sentences with the named entities they hold, for the low_bootstrap example.

    python examples/low_bootstrap/generate_sentences.py

A named entity here is a person, a place, an organisation or a product, written as it stands in the text and without
title or article. Days, months, nationalities, roles and events are none. A sentence holds none to three of them, and
``entities`` lists them in the order of the text.

Every sentence is a template with its slots filled. Places are real, everything else is invented. Each split has
templates and names of its own: no template and no name stands in two splits, so a model cannot know them by heart. The
file's order is the split: 800 train, 100 dev, 100 test.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SEED = 11
SPLITS = {"train": 800, "dev": 100, "test": 100}
SHARES = {"train": 0.6, "dev": 0.2, "test": 0.2}
"""How the templates and names are dealt out."""


def listed(text: str) -> list[str]:
    """The words or phrases of a text, between its commas."""
    return " ".join(text.split()).split(", ")


KINDS = ("person", "place", "org", "product")

FIRST = listed(
    """
    Ada, Amir, Anika, Bruno, Carla, Chen, Daria, Diego, Edda, Emil, Farah, Felix, Greta, Hana, Hugo, Ines, Ivan, Jana,
    Jonas, Kofi, Lena, Luca, Mara, Milan, Nadia, Nils, Olga, Omar, Petra, Priya, Rafael, Rosa, Samir, Selma, Tariq,
    Tessa, Uma, Viktor, Wanda, Yusuf
    """
)
LAST = listed(
    """
    Adeyemi, Albrecht, Andersen, Baptiste, Becker, Bianchi, Brandt, Castell, Cortez, Dahl, Dubois, Eriksen, Fischer,
    Fontaine, Garner, Haddad, Hartley, Ibsen, Ivanova, Jansen, Kaplan, Keller, Kowalski, Laurent, Lindgren, Mancini,
    Marsh, Mendez, Moreau, Nakamura, Novak, Okafor, Olsen, Pereira, Petrov, Quinn, Rahman, Reyes, Rossi, Sandoval,
    Santos, Schreiber, Sharma, Silva, Sorensen, Tanaka, Thorne, Ueda, Vance, Varga, Vogel, Wallin, Weber, Whitfield,
    Winter, Yilmaz, Zeller, Zhang, Zimmer, Zorn
    """
)
PLACES = listed(
    """
    Lisbon, Oslo, Nairobi, Lima, Kyoto, Ghent, Tallinn, Porto, Quito, Bergen, Cork, Dakar, Graz, Hanoi, Izmir, Jaipur,
    Krakow, Leipzig, Malmo, Naples, Osaka, Perth, Riga, Seville, Turin, Utrecht, Vienna, Warsaw, Zagreb, Zurich,
    Norway, Peru, Kenya, Japan, Portugal, Chile, Ghana, Iceland, Vietnam, Canada, New Zealand, South Africa, Sri
    Lanka, Cape Town, San Marino, Buenos Aires, Costa Rica, Lake Garda, Mount Etna, Lake Malawi, Hong Kong, Lake Como,
    Mount Kenya, Rio de Janeiro, Cape Verde, El Salvador, Santa Fe, Port Louis, Monte Carlo, Tierra del Fuego
    """
)
STEMS = listed(
    """
    Halden, Norvale, Brixton, Castor, Delmar, Elmwood, Farrow, Gantry, Harrow, Ironbridge, Juniper, Kestrel, Larkspur,
    Merrow, Northgate, Orwell, Pinecrest, Quarry, Redfern, Stonefield, Tamsin, Underhill, Verity, Westmark, Yarrow,
    Ashdown, Birchall, Corvin, Dunmore, Everly, Foxglove, Greywater, Hollis, Inverley, Kingsley, Lowell, Marlow,
    Nordhaus, Oakhurst, Penrose
    """
)
ORGS = listed(
    """
    {} Bank, {} Foods, {} Airlines, {} Motors, {} University, {} Logistics, {} and Sons, Bank of {}, {} Energy,
    University of {}, {} Museum, {} Labs, {} Steel, {} Insurance, {} Press
    """
)
PRODUCT_STEMS = listed(
    """
    Lumo, Aero, Pixa, Vento, Zephyr, Nimbus, Cirra, Talon, Orbit, Quill, Ember, Glint, Helio, Jolt, Krill, Lyric,
    Mosaic, Nova, Onyx, Pulse, Ripple, Sonic, Tempo, Ultra, Vireo, Wisp, Xeno, Yonder, Zest, Bravo, Comet, Drift,
    Echo, Flint, Gusto, Halo, Iris, Jade, Karma, Lotus
    """
)
PRODUCTS = listed("{} 3, {}Pad, {} Mini, {}Book Pro, {} X1, {} Kettle, {} 500, {}Phone, {} Go, {}Watch")

DAYS = listed("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = listed("January, February, March, April, May, June, July, August, September, October, November, December")
ROLES = listed(
    """
    director, new manager, head of sales, chief engineer, treasurer, lead designer, night nurse, head chef,
    spokesperson, accountant, site manager, librarian
    """
)
NATIONS = listed("Swedish, Italian, Korean, Mexican, Polish, Danish, Indian, Turkish, Dutch, Irish, Greek, Finnish")
THINGS = listed(
    """
    contract, report, invoice, press release, survey, grant, shipment, prototype, sample, new catalogue, budget, photo
    album
    """
)

TEMPLATES = """
{person} moved to {place} in {month}.
{person} joined {org} as {role}.
On {day} {person} met {person} in {place}.
{org} opened an office in {place}.
{org} will sell the {product} from {month}.
The {product} is made by {org}.
{person} returned the {product} on {day}.
Our {role}, {person}, is on leave until {month}.
We flew from {place} to {place} last {month}.
The {nation} team lost in {place}.
According to {person}, {org} lost money in {month}.
{org} and {org} agreed to merge.
Dr {person} now works at {org}.
The {role} sent the {thing} to {person}.
Heavy rain fell over {place} on {day}.
Nobody at {org} had seen the {thing}.
{place} is colder than {place} in {month}.
I bought a {product} while I was in {place}.
The {product} broke after two weeks.
Is {person} still with {org}?
Please forward the {thing} to {person} before {day}.
The {thing} is due on {day}.
In {month} the {nation} {role} resigned.
My cousin teaches at {org} in {place}.
{person} prefers the {product} to the {product}.
Professor {person} was born in {place}.
{org} hired a {nation} {role}.
A ferry links {place} with {place}.
Last {day} {org} cut the price of the {product}.
{person} wrote the {thing} for {org}.
The museum in {place} reopens in {month}.
Ask {person} about the {thing}.
{person}, {person} and {person} share a flat.
Sales of the {product} doubled in {place}.
The {role} of {org} spoke on {day}.
Mrs {person} owns two shops in {place}.
The {product} won a {nation} design award.
We had lunch with {person} from {org}.
There is no meeting on {day}.
{org} moved its factory from {place} to {place}.
The {nation} edition of the {thing} is late.
Has the {product} arrived in {place} yet?
{person} repaired my {product} for free.
The road to {place} is closed until {day}.
{org} sued {org} over the {thing}.
Every {month} {person} travels to {place}.
The {role} wants a second {thing}.
Her {product} was stolen in {place}.
{org} was founded by {person} and {person}.
Mr {person} lost the {thing} on a train to {place}.
The {nation} press praised {person}.
Only {org} offers the {product} with a {nation} manual.
Tickets for {place} sell out by {month}.
{person} left {org} on {day}.
A {nation} tourist was rescued near {place}.
The {thing} never reached {place}.
In {place}, {org} is better known than {org}.
{person} tested the {product} for a week.
Send the {product} back to {org}.
{person} thanked the {role} in {place}.
Why did {org} drop the {product}?
The {thing} from {place} arrived on {day}.
Next {month} {person} will run {org}.
They named {person} {role} of {org}.
Both {person} and the {role} missed the train to {place}.
The old {product} is still popular in {place}.
{org} pays its {role} too little.
{day} is a bad day for the {thing}.
Snow closed the airport of {place} in {month}.
{person} showed us a {product}.
My flight to {place} was delayed.
The board of {org} met {person} on {day}.
We ordered a {product} from {org}.
No {nation} dish is on the menu.
{person} grew up between {place} and {place}.
The {role} prefers to work on {day}.
Will the {product} be sold in {place}?
{org} gave {person} a {product}.
The {thing} was signed in {place} by {person}.
{person} is the {nation} {role} at {org}.
""".strip().splitlines()


@dataclass(frozen=True)
class Sentence:
    """One sentence and how it came about."""

    text: str
    entities: tuple[str, ...]
    template: str


def names() -> dict[str, list[str]]:
    """All names of each kind; each stem makes two organisations or products, each last name two people."""
    rng = random.Random(SEED)
    return {
        "person": [f"{first} {last}" for last in LAST for first in rng.sample(FIRST, 2)],
        "place": list(PLACES),
        "org": [pattern.format(stem) for stem in STEMS for pattern in rng.sample(ORGS, 2)],
        "product": [pattern.format(stem) for stem in PRODUCT_STEMS for pattern in rng.sample(PRODUCTS, 2)],
    }


def dealt(values: Sequence[str], rng: random.Random) -> dict[str, list[str]]:
    """The values shuffled and dealt out to the splits, each to one."""
    shuffled = rng.sample(list(values), len(values))
    dealt_out, start = {}, 0
    for split, share in SHARES.items():
        end = len(shuffled) if split == list(SHARES)[-1] else start + round(share * len(shuffled))
        dealt_out[split], start = shuffled[start:end], end
    return dealt_out


def fill(template: str, pools: Mapping[str, Sequence[str]], rng: random.Random) -> Sentence:
    """The template with every slot filled; no name twice."""
    entities: list[str] = []

    def value(slot: re.Match[str]) -> str:
        kind = slot[1]
        word = rng.choice([name for name in pools[kind] if name not in entities])
        if kind in KINDS:
            entities.append(word)
        return word

    text = re.sub(r"\{(\w+)\}", value, template)
    return Sentence(text[0].upper() + text[1:], tuple(entities), template)


def generate(seed: int = SEED) -> dict[str, list[Sentence]]:
    """The sentences by split, every template as often as any other in its split (give or take one)."""
    rng = random.Random(seed)
    templates = dealt(TEMPLATES, rng)
    own = {kind: dealt(values, rng) for kind, values in names().items()}
    common = {"day": DAYS, "month": MONTHS, "role": ROLES, "nation": NATIONS, "thing": THINGS}
    made: dict[str, list[Sentence]] = {}
    for split, size in SPLITS.items():
        pools = {**common, **{kind: own[kind][split] for kind in KINDS}}
        sentences: dict[str, Sentence] = {}
        turn = 0
        while len(sentences) < size:
            sentence = fill(templates[split][turn % len(templates[split])], pools, rng)
            sentences.setdefault(sentence.text, sentence)
            turn += 1
        made[split] = list(sentences.values())
        rng.shuffle(made[split])
    return made


def to_json(sentences: Iterable[Sentence]) -> str:
    """The rows as sentences.json holds them."""
    rows = [json.dumps({"text": s.text, "entities": list(s.entities)}, ensure_ascii=False) for s in sentences]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def main() -> None:
    """Write sentences.json beside this file."""
    everything = [sentence for sentences in generate().values() for sentence in sentences]
    Path(__file__).with_name("sentences.json").write_text(to_json(everything), encoding="utf-8")


if __name__ == "__main__":
    main()
