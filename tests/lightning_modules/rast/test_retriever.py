"""StyleRetriever: both sides of one encoder, exact and FAISS search, its policy, its draws and what it refuses."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from datamodules.wrong_input import WrongInput
from lightning_modules.exporting import export
from lightning_modules.rast.retriever import StyleRetriever
from lightning_modules.rast.template_index import TemplateIndex

TEMPLATES = [
    f"{word} {verb} [MASK]{rest} ?"
    for word in ("Who", "What", "When", "In which year")
    for verb in ("founded", "is", "did")
    for rest in ("", " in [MASK]", " the [MASK] of")
]
QUERIES = ["Who founded [MASK] ?", "When is it [MASK] for all of them ?", "Where ?"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 16, "hidden_dropout_prob": 0.3, "initializer_range": 0.5}
NONE = torch.full((3,), -1)


def bank(templates=TEMPLATES):
    return SimpleNamespace(texts=list(templates))


@pytest.fixture(params=["t5", "bert"])
def source(request, t5_folder, t5_fields):
    return t5_folder() if request.param == "t5" else BERT


@pytest.fixture
def make(source, tokenizer):
    def make(templates=TEMPLATES, **settings):
        torch.manual_seed(0)
        return StyleRetriever(source, tokenizer, bank(templates), **settings)

    return make


def move(retriever):
    """As training does, only further."""
    with torch.no_grad():
        for parameter in retriever.query_encoder.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


def test_query_and_bank_start_from_the_same_weights(make):
    retriever = make()
    vectors = retriever.bank_vectors()
    torch.testing.assert_close(retriever.embed(TEMPLATES), vectors, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(TEMPLATES)))
    found = retriever.retrieve(TEMPLATES, torch.full((len(TEMPLATES),), -1))
    assert found.positions[:, 0].tolist() == list(range(len(TEMPLATES)))  # each is nearest to itself
    torch.testing.assert_close(found.scores[:, 0], torch.ones(len(TEMPLATES)))


def test_training_moves_the_query_side_alone(make):
    retriever = make()
    before = retriever.bank_vectors().clone()
    move(retriever)
    assert torch.equal(retriever.bank_vectors(), before)
    retriever.bank.texts.append("Whose [MASK] is it ?")
    grown = retriever.bank_vectors()
    assert torch.equal(grown[:-1], before)
    new = make(["Whose [MASK] is it ?"])
    torch.testing.assert_close(grown[-1:], new.bank_vectors(), rtol=1e-5, atol=1e-5)  # by the starting weights
    assert (retriever.embed(["Whose [MASK] is it ?"]) - grown[-1:]).abs().max() > 0.01


def test_a_bank_that_grows_is_not_encoded_anew(make):
    retriever, seen = make(batch_size=4), []
    retriever.bank_encoder.register_forward_hook(lambda m, a, k, o: seen.append(len(k["input_ids"])), with_kwargs=True)
    retriever.bank_vectors()
    assert sum(seen) == len(TEMPLATES)
    assert max(seen) == 4
    retriever.bank_vectors()
    retriever.bank.texts.extend(["Whose ?", "Why ?"])
    retriever.bank_vectors()
    assert sum(seen) == len(TEMPLATES) + 2


def test_padding_and_batches_change_nothing(make):
    retriever = make(batch_size=5)
    alone = torch.cat([retriever.embed([template]) for template in TEMPLATES])
    torch.testing.assert_close(retriever.embed(TEMPLATES), alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(retriever.bank_vectors(), alone, rtol=1e-4, atol=1e-5)


def test_it_is_the_masked_mean_of_the_states(make, tokenizer):
    retriever = make()
    ids = torch.tensor(tokenizer(QUERIES[1])["input_ids"])[None]
    states = retriever.query_encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    expected = torch.nn.functional.normalize(states.mean(0), dim=0)
    torch.testing.assert_close(retriever.embed(QUERIES)[1], expected, rtol=1e-4, atol=1e-5)


def test_a_query_without_words_prefers_nothing(make, tokenizer):
    assert tokenizer("")["input_ids"] == []
    found = make().retrieve([""], NONE[:1])
    torch.testing.assert_close(found.logps, torch.full_like(found.logps, -math.log(len(TEMPLATES))))


def test_candidates_are_the_naive_ones_without_the_own(make):
    retriever = make(candidates=6)
    move(retriever)
    own = torch.tensor([3, -1, 0])
    found = retriever.retrieve(QUERIES, own)
    products = retriever.embed(QUERIES) @ retriever.bank_vectors().T
    for row, scores in enumerate(products.tolist()):
        order = sorted((i for i in range(len(TEMPLATES)) if i != own[row]), key=lambda i: -scores[i])[:6]
        assert found.positions[row].tolist() == order
        assert found.scores[row].tolist() == pytest.approx([scores[i] for i in order], abs=1e-6)
    torch.testing.assert_close(found.logps, products.gather(1, found.positions).log_softmax(-1))


def test_a_negative_cosine_has_a_logarithm(make):
    """The released code takes that of the cosine itself."""
    retriever = make()
    retriever.bank_vectors()
    retriever._index.vectors = -retriever.embed([QUERIES[0]] * len(TEMPLATES)).detach()
    found = retriever.retrieve(QUERIES[:1], NONE[:1])
    assert (found.scores < 0).all()
    assert found.logps.isfinite().all()
    torch.testing.assert_close(found.logps.exp().sum(-1), torch.ones(1))
    found.logps[0, 0].backward()
    assert all(p.grad.isfinite().all() for p in retriever.query_encoder.parameters() if p.grad is not None)


def test_only_the_query_encoder_is_trained_and_kept(make):
    retriever = make()
    assert {name.split(".")[0] for name in retriever.state_dict()} == {"query_encoder"}
    assert not any(p.requires_grad for p in retriever.bank_encoder.parameters())
    assert not any(part.training for part in retriever.query_encoder.modules())
    drawn = retriever.draw(QUERIES, NONE, 2)
    (drawn.draw.within_logps + drawn.draw.cluster_logps).sum().backward()
    grads = {name: p.grad for name, p in retriever.query_encoder.named_parameters() if p.requires_grad}
    assert all(grad is not None for grad in grads.values())  # no parameter that DDP would wait for
    assert any(grad.abs().max() > 0 for grad in grads.values())


def test_an_exported_retriever_keeps_its_bank(make, tokenizer, tmp_path):
    retriever = make()
    vectors = retriever.bank_vectors()
    move(retriever)
    beside = {"bank_encoder": (retriever.bank_encoder, tokenizer)}
    export(retriever.query_encoder, tokenizer, tmp_path / "retriever", beside)
    loaded = StyleRetriever(tmp_path / "retriever", tokenizer, bank())
    torch.testing.assert_close(loaded.bank_vectors(), vectors)
    torch.testing.assert_close(loaded.embed(QUERIES), retriever.embed(QUERIES))
    assert (loaded.embed(TEMPLATES) - vectors).abs().max() > 0.01


def by_word(templates, count):
    assert count == 3
    return [sorted({t.split()[0] for t in templates}).index(t.split()[0]) % count for t in templates]


def test_one_template_a_cluster(make):
    retriever = make(cluster=by_word)
    styles = retriever.draw(QUERIES, torch.tensor([0, -1, -1]), 3, torch.Generator().manual_seed(0))
    for templates, positions, scores in zip(styles.templates, styles.positions.tolist(), styles.scores, strict=True):
        assert [TEMPLATES[i] for i in positions] == templates
        assert len(set(by_word(templates, 3))) == 3
        assert (scores <= 1).all()
    found = retriever.retrieve(QUERIES, torch.tensor([0, -1, -1]))
    assert torch.equal(found.positions.gather(1, styles.draw.positions), styles.positions)
    torch.testing.assert_close(styles.entropy, torch.distributions.Categorical(logits=found.logps).entropy())
    again = retriever.draw(QUERIES, torch.tensor([0, -1, -1]), 3, torch.Generator().manual_seed(0))
    assert torch.equal(again.positions, styles.positions)


def test_without_clusters_templates_are_drawn_from_all(make):
    styles = make().draw(QUERIES, NONE, 3)
    torch.testing.assert_close(styles.draw.weights, torch.full((3, 3), 1 / 3))


def refusal(call):
    with pytest.raises(WrongInput) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_banks_that_are_too_small(make):
    assert "the bank of templates is empty" in refusal(lambda: make([]).check_count(1, "k"))
    assert "the bank of templates is empty" in refusal(lambda: make([]).draw(QUERIES, NONE, 1))
    told = "5 templates an input are wanted and the bank has 4 (questions): ask for fewer, or give more"
    assert refusal(lambda: make(TEMPLATES[:4]).check_count(5, "questions")) == told
    assert "candidates is 4 (k)" in refusal(lambda: make(candidates=4).check_count(5, "k"))
    make(TEMPLATES[:5]).check_count(5, "k")
    assert len(make(TEMPLATES[:3]).draw(QUERIES, NONE, 3).templates[0]) == 3
    assert "4 templates an input are wanted and the bank has 3" in refusal(
        lambda: make(TEMPLATES[:3]).draw(QUERIES, torch.tensor([-1, 2, -1]), 3)
    )
    assert "2 templates" in refusal(lambda: make(TEMPLATES[:1]).draw(QUERIES[:1], torch.tensor([0]), 1))


def test_settings_that_are_refused(make):
    assert "number 99 of 36" in refusal(lambda: make().draw(QUERIES, torch.tensor([0, 99, 1]), 2))
    assert "candidates 0" in refusal(lambda: make(candidates=0))
    told = refusal(lambda: make(cluster=lambda t, k: range(len(t))).draw(QUERIES, NONE, 2))
    assert "the clustering fails: 3 rows of up to 36 clusters for 3 of 2 draws (cluster)" in told
    assert "1 labels for 36 candidates" in refusal(lambda: make(cluster=lambda t, k: [0]).draw(QUERIES, NONE, 2))


def vectors(count, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 8, generator=rng), dim=-1)


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF16,Flat"])
def test_faiss_finds_what_exact_search_finds(factory):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    exact, fast = TemplateIndex(8), TemplateIndex(8, factory)
    for index in (exact, fast):
        index.add(vectors(700))
        index.add(vectors(100, 1))
    queries, own = vectors(50, 2), torch.arange(50) * 16 - 16
    own[0] = -1
    expected, found = (index.search(queries, 10, own) for index in (exact, fast))
    common = [len(set(a) & set(b)) for a, b in zip(expected.tolist(), found.tolist(), strict=True)]
    assert sum(common) >= {"Flat": 500, "HNSW32": 490, "IVF16,Flat": 100}[factory]
    assert not (found == own[:, None]).any()
    products = (queries[:, None] * fast.vectors[found]).sum(-1)
    assert (products.diff(dim=1) <= 1e-6).all()
    assert all(len(set(row)) == 10 for row in found.tolist())


def test_where_faiss_finds_too_few_the_search_is_exact():
    """One cell of 16 holds fewer than 200 of 300."""
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    exact, fast = TemplateIndex(8), TemplateIndex(8, "IVF16,Flat")
    for index in (exact, fast):
        index.add(vectors(700))
    queries, none = vectors(5, 2), torch.full((5,), -1)
    assert torch.equal(exact.search(queries, 400, none), fast.search(queries, 400, none))


def test_faiss_settings_that_are_refused(monkeypatch):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    assert "FAISS knows no such index" in refusal(lambda: TemplateIndex(8, "Nope7"))
    assert "FAISS cannot index 5 templates" in refusal(lambda: TemplateIndex(8, "IVF16,Flat").add(vectors(5)))
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install 'smoothtalk[retrieval]'" in refusal(lambda: TemplateIndex(8, "Flat"))


def test_the_retriever_searches_with_the_index_it_is_told(make):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    exact, fast = make(candidates=6), make(candidates=6, index="Flat")
    assert fast._index._faiss is not None
    own = torch.tensor([3, -1, 0])
    found, expected = fast.retrieve(QUERIES, own), exact.retrieve(QUERIES, own)
    torch.testing.assert_close(found.scores, expected.scores)
    assert fast._index._faiss.ntotal == len(TEMPLATES)
