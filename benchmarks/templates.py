"""How fast a bank of templates is made: 100 000 questions about 20 000 passages, and how fast templates are compared.

``python -m benchmarks.templates`` prints a table; ``--write`` also puts it into ``benchmarks/templates.md``. The texts
are made up from a seed: function words in random order around made-up content words, so that far more templates differ
than people's questions yield, and the search for near duplicates has more to look through than it will have in use.

Against it, in pure Python, one pair after the other:

- ``loop, greedy``: each template against all kept so far, on a part of them (the loop's time grows with its square);
- ``loop, 500 x 500``: the Jaccard similarity of all pairs of 500 templates.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import spacy

from datamodules.batches import Example
from datamodules.templates import BankTemplate, TemplateBank, TemplateExtractor, clusters, template_words
from datamodules.templates.opening import extract_examples
from datamodules.templates.similarity import jaccard_matrix

ASKING = ("what", "who", "which", "when", "where", "why", "how many", "in what", "what kind of", "how did", "what is")
FUNCTION_WORDS = ("the", "of", "in", "did", "was", "is", "to", "a", "for", "and", "that", "by", "his", "after", "with")
PART = 4000
"""Of the templates, which the greedy loop can do in a minute."""


def make_examples(questions: int, a_passage: int, seed: int = 0) -> list[Example]:
    """Questions of some twelve words about passages of some 120."""
    rng = random.Random(seed)
    syllables = ("ka", "ro", "mi", "ten", "sol", "va", "der", "lu", "pen", "gar", "ist", "on")
    content = ["".join(rng.choices(syllables, k=rng.randrange(2, 5))) for _ in range(30_000)]
    examples = []
    for passage in range(-(-questions // a_passage)):
        held = rng.choices(content, k=60)
        words = [rng.choice((word, rng.choice(FUNCTION_WORDS))) for word in held for _ in range(2)]
        context = f"{held[0]} {' '.join(words)}."
        for n in range(a_passage):
            inner = [rng.choice(held) if rng.random() < 0.5 else rng.choice(FUNCTION_WORDS) for _ in range(9)]
            question = f"{rng.choice(ASKING).capitalize()} {' '.join(inner)}?"
            examples.append(Example(f"{passage}-{n}", context, held[0], 0, question))
    return examples[:questions]


def timed(run: Callable, repeats: int = 1) -> float:
    """Seconds of processor time of the fastest run: other processes do not count."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return min(seconds)


def loop_greedy(templates: list[str]) -> list[str]:
    kept: list[tuple[str, frozenset[str]]] = []
    for text in templates:
        words = template_words(text)
        if words and all(len(words & other) / len(words | other) <= 0.6 for _, other in kept):
            kept.append((text, words))
    return [text for text, _ in kept]


def loop_matrix(sets: list[frozenset[str]]) -> list[list[float]]:
    return [[len(a & b) / len(a | b) for b in sets] for a in sets]


def bank_of(templates: list[str]) -> TemplateBank:
    bank = TemplateBank()
    bank.add(BankTemplate(text, "benchmark") for text in templates)
    return bank


def measure(examples: list[Example]) -> list[tuple[str, float, str]]:
    """Rows of name, seconds, remark."""
    extractor = TemplateExtractor()
    extractor.of("Is it loaded?", "It is.")
    extracted, banks = [], []
    extraction = timed(lambda: extracted.extend(extract_examples(examples, extractor)))
    templates = [one.template for one in extracted]
    storing = timed(lambda: banks.append(bank_of(templates)))
    bank, fresh = banks[0], [f"whence {text}" for text in templates[:1000]]
    adding = timed(lambda: bank.add(BankTemplate(text, "new") for text in fresh))
    part, distinct = templates[:PART], bank.texts[:500]
    if bank_of(part).texts != loop_greedy(part):
        raise SystemExit("the bank and the loop keep different templates")
    fast_part, slow_part = timed(lambda: bank_of(part), 3), timed(lambda: loop_greedy(part))
    sets = [template_words(text) for text in distinct]
    if not np.array_equal(jaccard_matrix(sets), np.array(loop_matrix(sets))):
        raise SystemExit("the two matrices differ")
    fast_matrix, slow_matrix = timed(lambda: jaccard_matrix(sets), 9), timed(lambda: loop_matrix(sets), 3)
    return [
        ("templates of the questions", extraction, f"{len(examples) / extraction:,.0f} questions a second"),
        ("the bank of them", storing, f"{len(bank):,} templates kept"),
        ("both", extraction + storing, "target: below 60 s"),
        ("1000 more", adding, ""),
        (f"the bank of {len(part)}", fast_part, f"{slow_part / fast_part:.0f} times as fast as the loop"),
        ("loop, greedy", slow_part, "the same templates are kept"),
        ("`jaccard_matrix`, 500 x 500", fast_matrix, f"{slow_matrix / fast_matrix:.0f} times as fast as the loop"),
        ("loop, 500 x 500", slow_matrix, "the same numbers"),
        ("`clusters` of 100 into 5", timed(lambda: clusters(distinct[:100], 5), 9), ""),
    ]


def table(examples: list[Example], rows: list[tuple[str, float, str]]) -> str:
    passages = len({example.context for example in examples})
    versions = f"Python {platform.python_version()}, spaCy {spacy.__version__}, NumPy {np.__version__}"
    lines = [
        f"{len(examples):,} questions about {passages:,} passages; {os.cpu_count()} cores, of which one is used,",
        f"load average {os.getloadavg()[0]:.1f}; {versions}.",
        "",
        "| | processor time, ms | |",
        "|---|---:|---|",
        *(f"| {name} | {seconds * 1e3:,.1f} | {remark} |" for name, seconds, remark in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--a-passage", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="also write benchmarks/templates.md")
    options = parser.parse_args()
    made = make_examples(options.questions, options.a_passage)
    text = table(made, measure(made))
    print(text)
    if options.write:
        title = "# Templates: speed, written by `python -m benchmarks.templates --write`\n\n"
        Path(__file__).with_suffix(".md").write_text(title + text)
