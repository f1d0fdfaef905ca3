"""Response log-probabilities against a loop over transformers' own logits."""

import pytest
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.batches import TokenBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import build_language_model, freeze, output_head
from lightning_modules.logprobs import token_logps
from lightning_modules.response_logps import response_lengths, response_logps, response_states
from lightning_modules.scoring import ScoringModule

# Wide weights, so that logits are far from uniform and the families' own treatment of them shows.
FAMILIES = {
    "qwen2": {"tie_word_embeddings": True},
    "llama": {"mlp_bias": True},
    "gemma2": {"final_logit_softcapping": 2.0, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt2": {"tie_word_embeddings": True, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "cohere": {"logit_scale": 0.5},
    "granite": {"logits_scaling": 4.0},
    "phi": {},  # its head has a bias
}
LENGTHS = [(3, 5), (9, 1), (1, 12), (4, 7), (6, 2)]


def rows_of(batch: TokenBatch, rows: list[int], length: int) -> TokenBatch:
    """Some rows, cut or padded to a length."""
    padding = max(0, length - batch.input_ids.shape[1])
    cut = (torch.nn.functional.pad(t[rows], (0, padding))[:, :length] for t in batch[:3])
    return TokenBatch(*cut, [batch.row_ids[row] for row in rows])


@torch.no_grad()
def naive_logps(model, batch: TokenBatch, vocabulary: int | None) -> torch.Tensor:
    """Row by row without padding, through the model's own logits."""
    sums = []
    for ids, attention, response in zip(*batch[:3], strict=True):
        n = int(attention.sum())
        logps = model(input_ids=ids[None, :n], use_cache=False).logits[0, :, :vocabulary].double().log_softmax(-1)
        sums.append(sum(logps[t - 1, ids[t]] for t in range(1, n) if response[t]))
    return torch.stack(sums)


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_are_those_of_the_models_own_logits(family, model_folder, token_batch):
    model = freeze(build_language_model(model_folder(family, initializer_range=0.4, **FAMILIES[family])))
    batch = token_batch(LENGTHS)
    expected = naive_logps(model, batch, None)
    logps = response_logps(model, batch)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps.double(), expected, rtol=1e-5, atol=1e-5)
    uniform = -response_lengths(batch).double() * torch.tensor(870.0).log()
    assert (expected - uniform).abs().max() > 1  # else nearly any head would have passed


def test_families_treat_their_logits_as_the_configs_say(model_folder):
    heads = {family: output_head(build_language_model(model_folder(family, **FAMILIES[family]))) for family in FAMILIES}
    assert heads["gemma2"].softcap == 2.0
    assert heads["cohere"].scale == 0.5
    assert heads["granite"].scale == 0.25
    assert heads["qwen2"][1:] == (None, 1.0, None)
    assert heads["phi"].bias is not None


def test_neither_padding_nor_company_nor_chunk_changes_a_row(model_folder, token_batch):
    model = freeze(build_language_model(model_folder(initializer_range=0.4)))
    batch = token_batch(LENGTHS)
    together = response_logps(model, batch)
    for rows in ([0], [3, 1], [4, 2, 0], [2, 2]):
        for length, chunk in ((13, None), (40, 1), (14, 6)):
            some = response_logps(model, rows_of(batch, rows, length), chunk=chunk)
            torch.testing.assert_close(some, together[rows], rtol=1e-5, atol=1e-5)


def test_padding_tokens_are_never_looked_at(model_folder, token_batch):
    model = freeze(build_language_model(model_folder(initializer_range=0.4)))
    batch = token_batch(LENGTHS, length=20)
    other = batch.input_ids.masked_fill(batch.attention_mask == 0, 77)
    torch.testing.assert_close(response_logps(model, batch), response_logps(model, batch._replace(input_ids=other)))


def test_gradients_are_those_of_the_models_own_logits(model_folder, token_batch):
    ours, theirs = (build_language_model(model_folder(initializer_range=0.4, tie_word_embeddings=True)) for _ in "ab")
    batch = token_batch(LENGTHS)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    (response_logps(ours, batch, vocabulary=700, chunk=4) * weights).sum().backward()
    logits = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1, :700]
    picked = logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
    ((picked * batch.response_mask[:, 1:]).sum(-1) * weights).sum().backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5, msg=name)
        assert p.grad.abs().max() > 1e-3


def test_phantom_rows_take_no_mass_unless_asked_to(tokenizer, model_folder, token_batch):
    vocabulary = len(tokenizer)
    model = freeze(build_language_model(model_folder(rows=vocabulary + 40, initializer_range=0.4)))
    batch = token_batch(LENGTHS)
    real = response_logps(model, batch, vocabulary=vocabulary)
    padded = response_logps(model, batch)
    torch.testing.assert_close(real.double(), naive_logps(model, batch, vocabulary), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(padded.double(), naive_logps(model, batch, None), rtol=1e-5, atol=1e-5)
    assert (real > padded).all()


def test_a_biased_head_is_cut_like_its_weight(model_folder, token_batch):
    model = freeze(build_language_model(model_folder("phi", initializer_range=0.4)))
    torch.nn.init.normal_(model.lm_head.bias, generator=torch.Generator().manual_seed(0))
    batch = token_batch(LENGTHS)
    logps = response_logps(model, batch, vocabulary=700)
    torch.testing.assert_close(logps.double(), naive_logps(model, batch, 700), rtol=1e-5, atol=1e-5)


def test_a_tokenizer_too_large_for_the_model_is_refused(model_folder, token_batch):
    model = build_language_model(model_folder(rows=950))
    with pytest.raises(WrongInput, match="1025 tokens but the model only 950") as error:
        response_logps(model, token_batch([(1, 20)], vocabulary=1025), vocabulary=1025)
    assert "\n" not in str(error.value)


def test_response_states_hold_the_response_tokens_in_order(model_folder, token_batch):
    model = freeze(build_language_model(model_folder()))
    batch = token_batch(LENGTHS)
    states = response_states(model, batch)
    expected = [(row, int(t)) for row in range(5) for t in batch.input_ids[row][batch.response_mask[row]]]
    assert list(zip(states.rows.tolist(), states.targets.tolist(), strict=True)) == expected
    per_token = token_logps(states.hidden, output_head(model), states.targets)
    assert per_token.shape == (27,)
    assert response_lengths(batch).tolist() == [5, 1, 12, 7, 2]


def test_a_row_without_response_gives_zero(model_folder, token_batch):
    model = freeze(build_language_model(model_folder()))
    batch = token_batch(LENGTHS)
    batch.response_mask[1] = False
    logps = response_logps(model, batch)
    assert logps[1] == 0
    assert (logps[[0, 2, 3, 4]] < 0).all()


class Batches(LightningDataModule):
    """One loader a model, of batches as they are."""

    def __init__(self, *loaders):
        super().__init__()
        self.loaders = loaders

    def predict_dataloader(self):
        return [DataLoader(batches, batch_size=None) for batches in self.loaders]


def test_scoring_module_scores_each_loader_with_its_model(tokenizer, model_folder, token_batch, trainer):
    folders = {
        "reference": model_folder(seed=1, rows=len(tokenizer) + 6),
        "teacher": model_folder(seed=2, rows=len(tokenizer) + 121, hidden_size=24),
    }
    batches = [token_batch(LENGTHS, seed=1), token_batch(LENGTHS[:2], seed=2)]
    module = ScoringModule(folders, tokenizer, logits_chunk=3)
    results = trainer().predict(module, datamodule=Batches(batches, batches[:1]))
    assert [[scores.model for scores in loader] for loader in results] == [["reference"] * 2, ["teacher"]]
    assert not list(module.parameters())
    for loader, folder in zip(results, folders.values(), strict=True):
        model = freeze(build_language_model(folder))
        for scores, batch in zip(loader, batches, strict=False):
            assert scores.row_ids == batch.row_ids
            expected = response_logps(model, batch, vocabulary=len(tokenizer))
            torch.testing.assert_close(torch.tensor(scores.logps), expected, rtol=1e-6, atol=1e-6)


def test_scoring_module_over_padded_rows(tokenizer, model_folder, token_batch, trainer):
    folder, batch = model_folder(rows=len(tokenizer) + 121), token_batch(LENGTHS)
    module = ScoringModule({"teacher": folder}, tokenizer, padded_vocabulary=True)
    ((scores,),) = [trainer().predict(module, datamodule=Batches([batch]))]
    expected = response_logps(freeze(build_language_model(folder)), batch)
    torch.testing.assert_close(torch.tensor(scores.logps), expected)


def test_one_frozen_model_in_memory_at_a_time(tokenizer, model_folder):
    module = ScoringModule({"a": model_folder(seed=1), "b": model_folder(seed=2)}, tokenizer)
    first = module.model("a")
    assert module.model("a") is first
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())
    assert module.model("b") is not first
    assert module.model("a") is not first  # it had been let go, and was loaded anew


def test_bfloat16_forward_float32_sums(tokenizer, model_folder, token_batch):
    folder, batch = model_folder(initializer_range=0.2), token_batch(LENGTHS)
    module = ScoringModule({"teacher": folder}, tokenizer, dtype="bfloat16")
    half = module.model("teacher")
    assert half.dtype == torch.bfloat16
    logps = response_logps(half, batch)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, response_logps(module.model("teacher").float(), batch), rtol=2e-2, atol=0.5)


def test_bfloat16_scores_agree_with_float32_better_than_a_bfloat16_softmax(model_folder, token_batch):
    """Of a response of T tokens: float32 sums over half-precision states err by a hundredth of a nat a token."""
    folder = model_folder(initializer_range=0.2, hidden_size=64, num_hidden_layers=2)
    batch = token_batch([(20, 60), (5, 80), (40, 30), (10, 90)])
    exact = response_logps(freeze(build_language_model(folder)), batch).double()
    half = freeze(build_language_model(folder, dtype="bfloat16"))
    lengths = response_lengths(batch).double()
    ours = (response_logps(half, batch).double() - exact).abs() / lengths
    states, head = response_states(half, batch), output_head(half)
    narrow = (states.hidden @ head.weight.T).log_softmax(-1).gather(-1, states.targets[:, None])[:, 0]
    summed = torch.zeros(4, dtype=torch.bfloat16).index_add(0, states.rows, narrow)
    theirs = (summed.double() - exact).abs() / lengths
    assert ours.max() < 0.03, ours
    assert ours.mean() < theirs.mean() / 3, (ours, theirs)


def test_the_trainers_precision_has_no_say_in_scores(tokenizer, model_folder, token_batch, trainer):
    """The cache keeps them by dtype: under autocast the same key would hold other numbers."""
    folder, batch = model_folder(initializer_range=0.4), token_batch(LENGTHS)
    found = []
    for precision in ("32-true", "bf16-mixed"):
        module = ScoringModule({"teacher": folder}, tokenizer)
        ((scores,),) = [trainer(precision=precision).predict(module, datamodule=Batches([batch]))]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            tokens = module.token_logps("teacher", batch)
        assert [sum(each) for each in tokens] == pytest.approx(scores.logps, abs=1e-3)
        found.append(scores.logps)
    assert found[0] == found[1]
    model = freeze(build_language_model(folder))
    with torch.autocast("cpu", torch.bfloat16):
        off = response_logps(model, batch, vocabulary=len(tokenizer)) - torch.tensor(found[0])
    assert off.abs().max() > 1e-2  # autocast would have told
