"""The sides of the daDPO benchmark: one set of pairs and models, and a step of each trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import lightning
import torch
import trl
from datasets import Dataset
from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from trl.trainer.utils import add_fused_lm_head

from benchmarks.dadpo_clock import Clock, OurWatch, TheirWatch
from callbacks.score_writer import ScoreWriter
from datamodules.preference_pairs import PreferencePairsDataModule
from lightning_modules import DaDPOModule, ScoringModule

PAIRS, BETA_REF, BETA_TEACHER, RATE = 8, 0.05, 0.05, 1e-4


class Size(NamedTuple):
    """A student; its teacher is half as wide again."""

    width: int
    layers: int
    steps: int
    """Timed in each turn."""
    turns: int

    @property
    def head_width(self) -> int:
        """Of an attention head."""
        return 32 if self.width < 512 else 64


class Workload(NamedTuple):
    """Lengths in tokens, uniform between two bounds, and the vocabulary."""

    prompt: tuple[int, int]
    response: tuple[int, int]
    vocabulary: int = 8192


SIZES = {"128x4": Size(128, 4, 4, 5), "512x8": Size(512, 8, 1, 3)}
WORKLOADS = {
    "chat": Workload((64, 192), (16, 160)),
    "long_prompt": Workload((512, 512), (256, 256)),
    "long_response": Workload((128, 128), (512, 512)),
    "large_vocabulary": Workload((64, 192), (16, 160), vocabulary=151_936),
}


def make_tokenizer(vocabulary: int) -> Qwen2Tokenizer:
    """A word a token, so that text and tokens are the same for everybody."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=letters, merges=[], eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(f"w{i:06}", normalized=False) for i in range(vocabulary - len(tokenizer))])
    return tokenizer


def make_pairs(count: int, words: int, workload: Workload) -> list[dict[str, str]]:
    """Random words; the end-of-turn token is counted in."""
    generator = torch.Generator().manual_seed(0)

    def text(low: int, high: int) -> str:
        length = int(torch.randint(low, high + 1, (), generator=generator))
        return "".join(f"w{i:06}" for i in torch.randint(0, words, (length,), generator=generator).tolist())

    answer = (workload.response[0] - 1, workload.response[1] - 1)
    return [
        {"prompt": text(*workload.prompt), "chosen": text(*answer), "rejected": text(*answer)} for _ in range(count)
    ]


def make_models(size: Size, folder: Path, tokenizer: Qwen2Tokenizer) -> dict[str, str]:
    folders = {}
    for seed, (name, width) in enumerate((("student", size.width), ("teacher", size.width * 3 // 2))):
        torch.manual_seed(seed)
        heads = {"num_attention_heads": width // size.head_width, "num_key_value_heads": 2}
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=size.layers,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            **heads,
        )
        folders[name] = str(folder / name)
        Qwen2ForCausalLM(config).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


class DaDPOTrainer(trl.DPOTrainer):
    """DaDPO is DPO at β = β1 + β2 from the reference (β1·ref + β2·te) / (β1 + β2)."""

    losses: list[float]

    def __init__(self, *arguments: Any, teacher: Any, **settings: Any):
        self.teacher, self.losses = teacher, []
        add_fused_lm_head(teacher)
        super().__init__(*arguments, **settings)

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> tuple[torch.Tensor, ...]:
        reference, teacher = (super(DaDPOTrainer, self).compute_ref_log_probs(m, inputs) for m in (model, self.teacher))
        total = BETA_REF + BETA_TEACHER
        return tuple((BETA_REF * r + BETA_TEACHER * t) / total for r, t in zip(reference, teacher, strict=True))

    def compute_loss(self, *arguments: Any, **settings: Any) -> Any:
        loss = super().compute_loss(*arguments, **settings)
        self.losses.append(float(loss))
        return loss


class Bench:
    """The sides over one set of pairs and models."""

    def __init__(self, size: Size, folder: Path, threads: int, workload: Workload = WORKLOADS["chat"]):
        self.size, self.folder, self.threads, self.workload = size, folder, threads, workload
        self.tokenizer = make_tokenizer(workload.vocabulary)
        self.folders = make_models(size, folder, self.tokenizer)
        self.rows = make_pairs(PAIRS * (size.steps + 1), workload.vocabulary - 300, workload)
        self._peer: Any = None

    def data(self, packing: str, scored: bool = True) -> PreferencePairsDataModule:
        frozen = {"reference": self.folders["student"], "teacher": self.folders["teacher"]} if scored else {}
        cache = {"cache_dir": self.folder / "scores"} if scored else {}
        settings = {"batch_size": PAIRS, "val_fraction": 0, "packing": packing}
        return PreferencePairsDataModule(self.rows, self.tokenizer, **frozen, **cache, **settings)

    def score(self) -> None:
        """Fill the cache."""
        frozen = {"reference": self.folders["student"], "teacher": self.folders["teacher"]}
        module = ScoringModule(frozen, self.tokenizer)
        trainer = self.lightning(callbacks=[ScoreWriter()])
        trainer.predict(module, datamodule=self.data("auto"), return_predictions=False)

    def lightning(self, **settings: Any) -> lightning.Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        fixed = {"accelerator": "cpu", "devices": 1, "enable_model_summary": False, "num_sanity_val_steps": 0}
        return lightning.Trainer(**quiet, **fixed, max_epochs=1, gradient_clip_val=1.0, **settings)

    def ours(self, side: str, clock: Clock) -> None:
        """One epoch of a fresh module."""
        packing, live = ("auto", False) if side == "packed" else ("off", side == "live")
        module = DaDPOModule(
            self.folders["student"],
            self.tokenizer,
            mode="live" if live else "cached",
            teacher=self.folders["teacher"] if live else None,
            beta_ref=BETA_REF,
            beta_teacher=BETA_TEACHER,
            optimizer=lambda groups: torch.optim.AdamW(groups, lr=RATE, weight_decay=0.0, fused=True),
            warmup=0.0,
            packing=packing,  # type: ignore[arg-type]
        )
        self.lightning(callbacks=[OurWatch(clock)]).fit(module, datamodule=self.data(packing, not live))

    def peer(self) -> trl.DPOTrainer:
        """TRL's trainer, its reference log-probabilities computed."""
        if self._peer is None:
            data = self.data("off", scored=False)
            data.setup("fit")
            places = [place for batch in data.train_dataloader() for place in batch.row_ids]
            rows = [self.rows[int(place.removeprefix("row ")) - 1] for place in places]
            config = trl.DPOConfig(
                str(self.folder / "trl"),
                beta=BETA_REF + BETA_TEACHER,
                precompute_ref_log_probs=True,
                per_device_train_batch_size=PAIRS,
                num_train_epochs=1,
                train_sampling_strategy="sequential",
                max_length=None,
                learning_rate=RATE,
                lr_scheduler_type="cosine",
                optim="adamw_torch_fused",
                max_grad_norm=1.0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                dataloader_pin_memory=False,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            student, reference, teacher = (
                Qwen2ForCausalLM.from_pretrained(self.folders[name]) for name in ("student", "student", "teacher")
            )
            data_and_tokenizer = {"train_dataset": Dataset.from_list(rows), "processing_class": self.tokenizer}
            self._peer = DaDPOTrainer(student, reference, config, teacher=teacher, **data_and_tokenizer)
            self._start = {name: value.clone() for name, value in student.state_dict().items()}
        return self._peer

    def theirs(self, clock: Clock) -> None:
        """One epoch of TRL's trainer from the same start."""
        trainer = self.peer()
        trainer.model.load_state_dict(self._start)
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.losses = clock.losses
        watch = TheirWatch(clock)
        trainer.add_callback(watch)
        trainer.train()
        trainer.remove_callback(watch)

    def run(self, side: str) -> Clock:
        clock = Clock(self.threads)
        if side == "TRL":
            self.theirs(clock)
        else:
            self.ours(side, clock)
        return clock
