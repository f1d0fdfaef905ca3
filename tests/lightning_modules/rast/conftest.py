"""A world of twenty words: a tokenizer, tiny T5s, passages, a bank, and everything that RASTModule is given."""

import functools
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningDataModule
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from datamodules.batches import Example, QuestionBatch
from datamodules.resumable import training_sampler
from lightning_modules import RASTModule
from lightning_modules.rast import Diversity, StyleRetriever, consistency
from lightning_modules.sampling import Sampling

WORDS = [
    "who",
    "what",
    "when",
    "where",
    "built",
    "sold",
    "the",
    "mill",
    "crow",
    "ada",
    "moor",
    "bea",
    "finch",
    "in",
    "1873",
    "1911",
    "red",
    "blue",
    "?",
    "by",
]
SPECIAL = ["<pad>", "</s>", "<unk>", "<hl>", "<sep>", "[MASK]"]
OPENINGS = [f"{word} {verb} [MASK]" for word in ("who", "when", "where", "what") for verb in ("built", "sold")]
TEMPLATES = [f"{opening} {end}" for opening in OPENINGS for end in ("?", "by ?")]
FACTS = [
    ("ada moor built the red mill in 1873", "ada moor", "who built the red mill ?"),
    ("bea finch sold the blue crow in 1911", "1911", "when sold bea finch the blue crow ?"),
    ("ada finch sold the red crow", "the red crow", "what sold ada finch ?"),
    ("bea moor built the mill in 1911", "1911", "when built bea moor the mill ?"),
]
SMALL = {"model_type": "t5", "d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 32, "num_layers": 1}
SMALL |= {"dropout_rate": 0.3, "initializer_factor": 0.8}  # dropout that must not be at work
EXAMPLES = [Example(f"facts.jsonl:{i}", c, a, c.index(a), q) for i, (c, a, q) in enumerate(FACTS, 1)]


@pytest.fixture(scope="session")
def words_tokenizer():
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<hl>", "<sep>", "[MASK]"],
    )


class WordEncoder:
    """Keeps to QuestionEncoder; nothing here is too long."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def ids(self, text):
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    def marked(self, e):
        end = e.answer_start + len(e.answer)
        return f"{e.context[: e.answer_start]} <hl> {e.answer} <hl> {e.context[end:]}"

    def passage(self, example):
        return self.ids(self.marked(example))

    def styled(self, example, template):
        return self.ids(f"{self.marked(example)} <sep> {template}")

    def qa(self, context, question, answer_span=None):
        return self.ids(f"{context} <sep> {question}")


def template_of(question, context, answer):
    known = {*context.split(), *answer.split()} - {"built", "sold"}
    return " ".join("[MASK]" if word in known else word for word in question.split())


def template_words(text):
    return set(text.replace("[MASK]", " ").split())


def by_first_word(templates, count):
    first = sorted({template.split()[0] for template in templates})
    return [first.index(template.split()[0]) % count for template in templates]


@pytest.fixture(scope="session")
def question_batch(words_tokenizer):
    """``question_batch(rows)``: these of the examples, with their own templates' places."""
    encoder = WordEncoder(words_tokenizer)

    def make(rows=(0, 1, 2, 3)):
        examples = [EXAMPLES[i] for i in rows]
        ids = [torch.tensor(encoder.passage(e)) for e in examples]
        mask = pad_sequence([torch.ones_like(i) for i in ids], True)
        own = [template_of(e.question, e.context, e.answer) for e in examples]
        places = [TEMPLATES.index(t) if t in TEMPLATES else -1 for t in own]
        return QuestionBatch(pad_sequence(ids, True), mask, torch.tensor(places), examples)

    return make


@pytest.fixture(scope="session")
def folders(tmp_path_factory, words_tokenizer):
    """Folders of a generator, a QA model and a vanilla generator, each of other weights."""
    from lightning_modules.exporting import export
    from lightning_modules.language_model import build_seq2seq_model

    made = {}
    with torch.random.fork_rng(devices=[]):
        for seed, name in enumerate(("generator", "qa", "vanilla")):
            torch.manual_seed(seed)
            made[name] = tmp_path_factory.mktemp("rast") / name
            export(build_seq2seq_model(SMALL, words_tokenizer), words_tokenizer, made[name])
    return made


@pytest.fixture
def rast(words_tokenizer, folders):
    """``rast(retriever={}, **settings) -> RASTModule`` on the small world; every setting can be overridden."""

    def make(retriever=None, templates=TEMPLATES, **settings):
        of_retriever = {"cluster": by_first_word, "candidates": 12, **(retriever or {})}
        bank = SimpleNamespace(texts=list(templates))
        defaults = {
            "generator": folders["generator"],
            "tokenizer": words_tokenizer,
            "encoder": WordEncoder(words_tokenizer),
            "retriever": functools.partial(StyleRetriever, folders["generator"], words_tokenizer, bank, **of_retriever),
            "template_of": template_of,
            "rewards": {"consistency": consistency, "diversity": Diversity(template_words)},
            "reward_weights": {"consistency": 1.0, "diversity": 0.1},
            "qa": folders["qa"],
            "vanilla": folders["vanilla"],
            "sampling": Sampling(temperature=1.0, top_p=0.95, top_k=30, max_new_tokens=6),
            "optimizer": lambda groups: torch.optim.AdamW(groups, lr=1e-2),
            "retriever_optimizer": lambda groups: torch.optim.AdamW(groups, lr=1e-2),
            "warmup": 0.0,
        }
        return RASTModule(**{**defaults, **settings})

    return make


class Batches(LightningDataModule):
    """Batches as they are, in order."""

    def __init__(self, train, val=()):
        super().__init__()
        self.train, self.val = list(train), list(val)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=None)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=None) if self.val else []


class Resumable(Batches):
    """The same, going on in the middle of an epoch, as the project's datamodules do."""

    def train_dataloader(self):
        sampler = training_sampler(self.trainer, len(self.train), 1, 0)
        return DataLoader(self.train, batch_sampler=sampler, collate_fn=lambda rows: rows[0])


@pytest.fixture(scope="session")
def resumable():
    """The class above."""
    return Resumable


@pytest.fixture(scope="session")
def small_t5():
    """A config of the small world's models."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def batches():
    """The class above: ``batches(train, val=())``."""
    return Batches
