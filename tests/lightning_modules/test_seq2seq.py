"""Encoder–decoders: built, loaded, run in two parts, fine-tuned and exported, against transformers itself."""

import copy
import math

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from datamodules.batches import Seq2SeqBatch
from datamodules.wrong_input import WrongInput
from lightning_modules import DaDPOModule, FineTuningModule
from lightning_modules.language_model import (
    build_encoder,
    build_language_model,
    build_model,
    build_seq2seq_model,
    output_head,
)
from lightning_modules.logprobs import token_logps
from lightning_modules.seq2seq import decoder_states, encoder_states, hits, label_states

LENGTHS = [(7, 3), (2, 6), (5, 1), (9, 4)]
BART = {"model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
BART |= {f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in ("attention_heads", "ffn_dim")}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # as T5 1.1: other feed-forwards, no scale
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("kind", ["t5", "t5 1.1", "bart"])
def test_log_probabilities_in_two_parts_are_transformers_own(kind, t5_fields, tokenizer, seq2seq_batch):
    fields = {"t5": t5_fields, "t5 1.1": t5_fields | GATED, "bart": BART}[kind]
    model, batch = build_seq2seq_model(fields, tokenizer).eval(), seq2seq_batch(LENGTHS)
    theirs = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels)
    encoded = encoder_states(model, batch.input_ids, batch.attention_mask)
    states = label_states(model, encoded, batch.attention_mask, batch.labels)
    logps = token_logps(states.hidden, output_head(model), states.targets)
    torch.testing.assert_close(-logps.mean(), theirs.loss, rtol=1e-5, atol=1e-5)
    mask = batch.labels != -100
    assert torch.equal(states.rows, mask.nonzero()[:, 0])
    right = (theirs.logits.argmax(-1) == batch.labels)[mask].sum()
    assert hits(states, output_head(model)) == hits(states, output_head(model), chunk=2) == right
    # a row alone gives what it gives in a batch: padding has no say
    alone = decoder_states(model, encoded[1:2, :2], batch.attention_mask[1:2, :2], batch.labels[1:2, :6])
    whole = decoder_states(model, encoded, batch.attention_mask, batch.labels)[1:2, :6]
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-5)


def test_a_new_model_knows_the_tokenizers_special_tokens(t5_fields, tokenizer):
    model = build_seq2seq_model(t5_fields, tokenizer)
    assert output_head(model, len(tokenizer)).weight.shape == (len(tokenizer), 16)
    assert model.config.decoder_start_token_id == model.config.pad_token_id == tokenizer.pad_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def with_marks(tokenizer):
    marked = copy.deepcopy(tokenizer)
    marked.add_special_tokens({"additional_special_tokens": ["<hl>", "<sep>", "[MASK]"]})
    return marked


def test_added_marks_get_rows_and_the_others_keep_theirs(t5_folder, tokenizer):
    marked = with_marks(tokenizer)
    for build in (build_seq2seq_model, build_encoder):
        before, after = build(t5_folder(), tokenizer), build(t5_folder(), marked)
        old, new = (model.get_input_embeddings().weight for model in (before, after))
        assert new.shape[0] == len(marked) == old.shape[0] + 3
        assert torch.equal(new[: len(tokenizer)], old)
    without = build_seq2seq_model(t5_folder(), marked, weights=False).shared.weight  # as a shard is made of
    assert without.is_meta
    assert without.shape[0] == len(marked)
    spare = build_seq2seq_model(t5_folder(vocab_size=1200), marked)
    assert output_head(spare).weight.shape[0] == 1200


def test_the_kind_is_told_by_the_config(t5_folder, t5_fields, model_folder, tokenizer):
    assert build_model(t5_folder()).config.is_encoder_decoder
    assert build_model(t5_fields, tokenizer, dtype="bfloat16").dtype == torch.bfloat16
    assert not build_model(model_folder()).config.is_encoder_decoder
    with pytest.raises(WrongInput, match="no model can be loaded"):
        build_model("no-one/nothing")
    with pytest.raises(WrongInput, match="no model can be loaded"):
        build_seq2seq_model(model_folder())
    with pytest.raises(WrongInput, match="no model can be loaded"):
        build_language_model(t5_folder())
    with pytest.raises(WrongInput, match="no model can be loaded"):
        DaDPOModule(t5_folder(), tokenizer).configure_model()


def test_no_token_to_start_with(t5_fields):
    with pytest.raises(WrongInput, match="no token to start decoding with"):
        build_seq2seq_model(t5_fields | {"vocab_size": 50, "pad_token_id": None})


def test_encoders_of_any_family(t5_folder, tokenizer, seq2seq_batch):
    batch = seq2seq_batch(LENGTHS)
    encoder, whole = build_encoder(t5_folder(), tokenizer), build_seq2seq_model(t5_folder(), tokenizer)
    assert not any("decoder" in name for name, _ in encoder.named_parameters())
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    torch.testing.assert_close(encoder(**inputs).last_hidden_state, encoder_states(whole, *inputs.values()))
    bert = build_encoder(BERT, tokenizer)
    frozen = {name for name, p in bert.named_parameters() if not p.requires_grad}
    assert frozen == {"pooler.dense.weight", "pooler.dense.bias"}
    with pytest.raises(WrongInput, match="the encoder of BartModel cannot be had alone"):
        build_encoder(BART, tokenizer)


def test_a_copying_start_repeats_what_it_attends_to(t5_fields, tokenizer):
    """With one token to attend to, the likeliest token is that one; from T5's own start it is hardly ever."""
    ids = torch.arange(20, 820)[:, None]
    shares = {}
    for start in ("copying", None):
        torch.manual_seed(0)
        fields = t5_fields | {"d_model": 64, "d_kv": 32, **({"initialisation": start} if start else {})}
        model = build_seq2seq_model(fields, tokenizer).eval()
        with torch.no_grad():
            shares[start] = (model(input_ids=ids, labels=ids).logits[:, 0].argmax(-1) == ids[:, 0]).float().mean()
    assert shares["copying"] > 0.3
    assert shares[None] < 0.05


def test_a_copying_start_sees_the_neighbours_of_a_token(t5_fields, tokenizer):
    """The encoder's first head looks at the next token most, the second at the one before, and a third at none."""
    torch.manual_seed(0)
    fields = t5_fields | {"num_heads": 3, "initialisation": "copying"}
    attention = build_seq2seq_model(fields, tokenizer).encoder.block[0].layer[0].SelfAttention
    bias = attention.compute_bias(9, 9)[0].detach()  # (heads, 9 queries, 9 keys)
    offset = {0: 1, 1: -1}
    for head in range(3):
        for query in range(1, 8):
            farther = bias[head, query].max() - bias[head, query].median()
            assert (farther > 2) == (head in offset)
            if head in offset:
                assert bias[head, query].argmax() == query + offset[head]


def test_a_binding_start_finds_the_same_token_elsewhere_and_what_is_near(t5_fields, tokenizer):
    torch.manual_seed(0)
    fields = t5_fields | {"d_model": 96, "d_kv": 16, "num_heads": 6, "num_layers": 2, "initialisation": "binding"}
    model = build_seq2seq_model(fields, tokenizer).eval()
    model.set_attn_implementation("eager")
    ids = torch.arange(100, 140)
    ids[[3, 30]] = 500
    with torch.no_grad():
        layers = model.encoder(input_ids=ids[None], output_attentions=True).attentions
    assert layers[0][0, 2, 3].argmax() == 30
    assert layers[0][0, 2, 30].argmax() == 3
    assert layers[0][0, 2, [3, 30], [30, 3]].min() > 0.5
    assert layers[0][0, 2, 10].max() < 0.3  # what stands here alone finds nothing
    before, behind = layers[0][0, 3], layers[0][0, 4]
    assert before.triu(1).max() < 0.01
    assert behind[:-1].tril().max() < 0.01  # the last token has nothing behind it
    assert before[20, 20] > before[20, 14] > before[20, 4]
    assert behind[20, 21] > behind[20, 26] > behind[20, 36]
    same = [layer.layer[0].SelfAttention for layer in model.encoder.block]
    for attention in same:  # in every layer
        torch.testing.assert_close(attention.q.weight[32:48], attention.k.weight[32:48] / 2)


def test_starts_that_are_refused(t5_fields, tokenizer):
    with pytest.raises(WrongInput, match="needs 5 heads, and the model has 2"):
        build_seq2seq_model(t5_fields | {"num_heads": 2, "initialisation": "binding"}, tokenizer)
    with pytest.raises(WrongInput, match="unknown initialisation 'identity'"):
        build_seq2seq_model(t5_fields | {"initialisation": "identity"}, tokenizer)
    with pytest.raises(WrongInput, match="BartForConditionalGeneration has no copying start"):
        build_seq2seq_model(BART | {"initialisation": "copying"}, tokenizer)


def built(folder, tokenizer, **settings):
    module = FineTuningModule("style", folder, tokenizer, **settings)
    module.configure_model()
    return module


def some(batch, rows):
    return Seq2SeqBatch(*(t[rows] for t in batch))


def test_fine_tuning_loss_gradients_and_accuracy(t5_folder, tokenizer, seq2seq_batch):
    batch, module = seq2seq_batch(LENGTHS), built(t5_folder(), tokenizer)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(t5_folder())
    expected = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels)
    learnt = module._loss(batch)
    torch.testing.assert_close(learnt.loss, expected.loss, rtol=1e-5, atol=1e-5)
    assert learnt.tokens == 14
    mask = batch.labels != -100
    right = (expected.logits.argmax(-1) == batch.labels)[mask].float().mean()
    torch.testing.assert_close(learnt.accuracy, right)
    learnt.loss.backward()
    expected.loss.backward()
    for p, q in zip(module.policy.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)


def test_it_overfits_a_tiny_batch(t5_fields, tokenizer, seq2seq_batch, trainer):
    batch = seq2seq_batch([(3, 4), (4, 3), (2, 5)], vocabulary=50)
    module = built(t5_fields, tokenizer, warmup=0.0, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2))
    fit = trainer(max_epochs=250, log_every_n_steps=1)
    fit.fit(module, DataLoader([batch], batch_size=None))
    assert fit.logged_metrics["style/train/loss"] < 0.1
    assert fit.logged_metrics["style/train/accuracy"] == 1.0


def test_validation_adds_up_over_any_split(t5_folder, tokenizer, seq2seq_batch, trainer):
    batch, module = seq2seq_batch(LENGTHS), built(t5_folder(), tokenizer)
    whole = module._loss(batch)
    for split in ([[0, 1, 2, 3]], [[0], [1], [2], [3]], [[1], [3, 0, 2]]):
        loader = DataLoader([some(batch, rows) for rows in split], batch_size=None)
        (logged,) = trainer().validate(module, loader, verbose=False)
        expected = {"style/val/loss": whole.loss.item(), "style/val/accuracy": whole.accuracy.item()}
        assert logged == pytest.approx(expected, rel=1e-5)


def test_it_logs_exactly_what_is_documented(t5_folder, tokenizer, seq2seq_batch, trainer):
    loader = DataLoader([seq2seq_batch(LENGTHS)], batch_size=None)
    fit = trainer(log_every_n_steps=1)
    fit.fit(built(t5_folder(), tokenizer), loader, loader)
    train = {f"style/train/{key}" for key in ("loss", "response_tokens", "lr", "accuracy")}
    assert set(fit.logged_metrics) == train | {"style/val/loss", "style/val/accuracy"}
    assert fit.logged_metrics["style/train/response_tokens"] == 14 / 4


def test_a_batch_of_the_other_kind_is_told(t5_folder, model_folder, tokenizer, token_batch, seq2seq_batch, trainer):
    for folder, batch, told in (
        (t5_folder(), token_batch([(2, 3)]), "T5ForConditionalGeneration cannot learn from a TokenBatch"),
        (model_folder(), seq2seq_batch(LENGTHS), "Qwen2ForCausalLM cannot learn from a Seq2SeqBatch"),
    ):
        with pytest.raises(WrongInput, match=told):
            trainer().fit(built(folder, tokenizer), DataLoader([batch], batch_size=None))


def test_a_loss_that_is_no_number_names_the_batch(t5_folder, tokenizer, seq2seq_batch, trainer):
    module = built(t5_folder(), tokenizer)
    torch.nn.init.constant_(module.policy.decoder.final_layer_norm.weight, math.nan)
    with pytest.raises(WrongInput, match=r"the loss is nan at step 0 \(stage style, rows of batch 0\)"):
        trainer().fit(module, DataLoader([seq2seq_batch(LENGTHS)], batch_size=None))


@pytest.mark.parametrize("fields", [{}, GATED])
def test_an_exported_model_writes_the_same(fields, t5_fields, tokenizer, seq2seq_batch, tmp_path):
    module, batch = (
        built(t5_fields | fields | {"initializer_factor": 3.0}, with_marks(tokenizer)),
        seq2seq_batch(LENGTHS),
    )
    module.export(tmp_path / "model")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == len(tokenizer) + 3
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "max_new_tokens": 8}
    written = [model.eval().generate(**inputs) for model in (module.policy, loaded)]
    assert torch.equal(*written)
    assert written[0].unique().numel() > 3
