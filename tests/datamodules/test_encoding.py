import copy
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from datamodules.encoding import check_same_tokens, encode_prompt, encode_response, load_tokenizer, pad_id_of
from datamodules.wrong_input import WrongInput

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who bakes bread?"}]
TWO_TURNS = [*ASK, {"role": "assistant", "content": "Ada Berg."}, {"role": "user", "content": "And cakes?"}]
LLAMA_LIKE = (
    "{{ '<s>' }}{% for m in messages %}{{ '[' + m['role'] + ']' + (m['content'] | trim) + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
REWRITING = (
    "{% for m in messages %}{% if loop.last or m['role'] != 'user' %}{{ m['role'] + ':' + m['content'] }}"
    "{% else %}{{ 'earlier:' + m['content'] }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def llama_like() -> PreTrainedTokenizerFast:
    """Characters as tokens; BOS is put before, and EOS behind, every text."""
    letters = [chr(i) for i in range(32, 127)] + ["\n"]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(["<s>", "</s>", *letters])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    made.chat_template = LLAMA_LIKE
    return made


def with_template(tokenizer, template: str | None):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def refused(call, *parts: str) -> None:
    with pytest.raises(WrongInput) as error:
        call()
    line = str(error.value)
    assert "\n" not in line
    for part in ("pairs.jsonl:3", *parts):
        assert part in line, line


@pytest.mark.parametrize("prompt", [ASK, TWO_TURNS, "Who bakes bread? "])
def test_ends_with_one_end_of_turn_and_nothing_behind_it(tokenizer, prompt):
    encoded = encode_response(tokenizer, prompt, "Ada Berg does.", "pairs.jsonl:3", 200)
    ids = encoded.ids.tolist()
    start, body = ids[: encoded.prompt_length], ids[encoded.prompt_length :]
    assert start == encode_prompt(tokenizer, prompt, "", 200)
    assert body[-1] == tokenizer.eos_token_id
    assert body.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(body[:-1]) == "Ada Berg does."
    assert (encoded.place, encoded.truncated, encoded.ids.dtype) == ("pairs.jsonl:3", False, np.int32)


def test_conversations_are_what_the_template_makes_of_them_but_for_the_last_line_break(tokenizer):
    encoded = encode_response(tokenizer, TWO_TURNS, "Otto Holm.", "", 200)
    whole = tokenizer.apply_chat_template([*TWO_TURNS, {"role": "assistant", "content": "Otto Holm."}], tokenize=False)
    assert whole.endswith("Otto Holm.<|im_end|>\n")
    assert tokenizer.decode(encoded.ids) == whole[:-1]
    assert tokenizer.decode(encoded.ids[: encoded.prompt_length]).endswith("<|im_start|>assistant\n")


def test_trl_encodes_a_conversational_pair_alike(tokenizer):
    from trl.data_utils import apply_chat_template

    answers = {"chosen": "Ada Berg.", "rejected": "I do not know that."}
    row = {"prompt": TWO_TURNS} | {side: [{"role": "assistant", "content": text}] for side, text in answers.items()}
    theirs = apply_chat_template(row, tokenizer)
    for side, text in answers.items():
        ours = encode_response(tokenizer, TWO_TURNS, text, "", 200)
        assert tokenizer.decode(ours.ids[: ours.prompt_length]) == theirs["prompt"]
        assert tokenizer.decode(ours.ids[ours.prompt_length :]) == theirs[side].removesuffix("\n")
        assert ours.ids.tolist() == tokenizer(theirs["prompt"] + theirs[side].removesuffix("\n"))["input_ids"]


@pytest.mark.parametrize("prompt", ["Who? ", "<s>Who? ", [{"role": "user", "content": "Who?"}]])
def test_one_bos_and_one_eos_where_the_tokenizer_adds_its_own(llama_like, prompt):
    for response in ("Ada", "Ada</s>"):
        ids = encode_response(llama_like, prompt, response, "", 100).ids.tolist()
        text = isinstance(prompt, str)
        assert ids.count(0) == 1
        assert ids[0] == 0
        assert ids.count(1) == (1 if text else 2)  # the user's turn of a conversation has its own
        assert ids[-1] == 1
        assert "".join(llama_like.convert_ids_to_tokens(ids)) == (
            "<s>Who? Ada</s>" if text else "<s>[user]Who?</s>[assistant]Ada</s>"
        )


def test_a_response_that_begins_with_a_line_break_keeps_the_prompts_tokens(tokenizer):
    # "\n" of the template and of the response become one token where both are one text, as they never are in sampling
    melting = copy.deepcopy(tokenizer)
    melting.add_tokens(["\n\n"])
    encoded = encode_response(melting, ASK, "\nAda Berg.", "", 200)
    start = encode_prompt(melting, ASK, "", 200)
    assert encoded.ids[: encoded.prompt_length].tolist() == start
    assert melting.decode(encoded.ids[encoded.prompt_length :]) == "\nAda Berg.<|im_end|>"
    whole = melting.apply_chat_template([*ASK, {"role": "assistant", "content": "\nAda Berg."}], return_dict=False)
    assert whole[: len(start)] != start  # which is what this is about


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_row(tokenizer):
    other = with_template(tokenizer, REWRITING)
    refused(lambda: encode_response(other, ASK, "Ada.", "pairs.jsonl:3", 200), "no prefix", "only appends")


def test_a_template_that_ends_turns_with_another_token_is_refused(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.eos_token = "<|endoftext|>"
    refused(
        lambda: encode_response(other, ASK, "Ada.", "pairs.jsonl:3", 200), "<|im_end|>", "<|endoftext|>", "eos_token"
    )


def test_a_template_without_end_of_turn_gets_one(tokenizer):
    bare = with_template(tokenizer, "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
                         "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")  # fmt: skip
    encoded = encode_response(bare, ASK, "Ada.", "", 200)
    assert tokenizer.decode(encoded.ids[encoded.prompt_length :]) == "Ada.\n<|im_end|>"


def test_no_template_and_a_template_that_raises(tokenizer):
    refused(lambda: encode_prompt(with_template(tokenizer, None), ASK, "pairs.jsonl:3", 200), "no chat template")
    angry = with_template(tokenizer, "{{ raise_exception('no system turns\n please') }}")
    refused(lambda: encode_prompt(angry, ASK, "pairs.jsonl:3", 200), "no system turns please", "mend the turns")


@pytest.mark.parametrize("prompt", [ASK, "Who bakes bread? "])
def test_the_maximum_leaves_room_for_a_response_or_says_so(tokenizer, prompt):
    start = encode_prompt(tokenizer, prompt, "", 200)
    whole = encode_response(tokenizer, prompt, "Ada Berg does.", "", 200)
    body = len(whole.ids) - len(start)
    for room in range(1, body + 2):
        cut = encode_response(tokenizer, prompt, "Ada Berg does.", "", len(start) + room)
        assert cut.ids.tolist() == whole.ids[: len(start) + room].tolist()
        assert cut.truncated == (room < body)
        assert len(cut.ids) > cut.prompt_length
    refused(
        lambda: encode_response(tokenizer, prompt, "Ada.", "pairs.jsonl:3", len(start)),
        f"the prompt has {len(start)} tokens",
        f"the maximum is {len(start)}",
    )


@pytest.mark.parametrize("response", ["", "  \n", "<|im_end|>"])
@pytest.mark.parametrize("prompt", [ASK, "Who? "])
def test_an_empty_response_is_refused(tokenizer, prompt, response):
    refused(lambda: encode_response(tokenizer, prompt, response, "pairs.jsonl:3", 200), "the response is empty")


def test_a_prompt_without_tokens_is_refused(tokenizer):
    refused(lambda: encode_prompt(tokenizer, "", "pairs.jsonl:3", 200), "the prompt has no tokens")


def test_what_is_held_out_depends_on_the_prompt_alone(tokenizer):
    one = encode_response(tokenizer, ASK, "Ada.", "a", 200)
    two = encode_response(tokenizer, ASK, "Otto Holm, I think.", "b", 100)
    assert one.prompt_share == two.prompt_share
    for chat in (False, True):  # prompts that differ in a token or two, as real ones do
        asked = [[{"role": "user", "content": f"Who is {i}?"}] if chat else f"Who is {i}? " for i in range(1000)]
        shares = [encode_response(tokenizer, prompt, "Ada.", "", 200).prompt_share for prompt in asked]
        assert min(shares) >= 0
        assert max(shares) < 1
        assert np.histogram(shares, 20, (0, 1))[0].min() > 25


def test_padding_is_the_end_of_turn_where_there_is_no_other(tokenizer, llama_like):
    assert pad_id_of(tokenizer) == tokenizer.pad_token_id
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert pad_id_of(llama_like) == llama_like.eos_token_id


def test_what_is_loaded_encodes_as_what_was_saved(tokenizer, model_folder):
    loaded = load_tokenizer(str(model_folder()))
    mine, theirs = (encode_response(t, TWO_TURNS, "It costs 12 crowns.", "", 200) for t in (tokenizer, loaded))
    assert mine.ids.tolist() == theirs.ids.tolist()


def test_a_folder_without_a_tokenizer_is_refused(model_folder, tmp_path):
    def spoilt(name: str, spoil) -> str:
        folder = shutil.copytree(model_folder(), tmp_path / name)
        spoil(folder)
        return str(folder)

    def drop(folder):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()

    sources = {
        str(tmp_path / "nowhere"): "no tokenizer can be loaded",
        spoilt("garbage", lambda folder: (folder / "tokenizer.json").write_text("{")): "no tokenizer can be loaded",
        spoilt("dropped", drop): "the tokenizer has no tokens",  # transformers makes an empty one up
    }
    for source, said in sources.items():
        with pytest.raises(WrongInput, match=said) as error:
            load_tokenizer(source)
        assert source in str(error.value)
        assert "\n" not in str(error.value)


def test_a_tokenizer_without_end_of_turn_is_refused(tokenizer, tmp_path):
    other = copy.deepcopy(tokenizer)
    other.eos_token = None
    other.save_pretrained(tmp_path)
    with pytest.raises(WrongInput, match="no end-of-turn token"):
        load_tokenizer(str(tmp_path))


def test_tokenizers_of_one_family_pass_and_others_name_the_first_difference(tokenizer):
    check_same_tokens(tokenizer, copy.deepcopy(tokenizer), "the teacher")
    longer, ended = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    longer.add_tokens(["<new>"])
    ended.eos_token = "<|endoftext|>"
    differences = {
        f"'<new>' is {len(tokenizer)} there and None here (the teacher)": longer,
        "end with '<|endoftext|>' and the student's with '<|im_end|>' (the teacher)": ended,
    }
    for said, other in differences.items():
        with pytest.raises(WrongInput) as error:
            check_same_tokens(tokenizer, other, "the teacher")
        assert said in str(error.value)
