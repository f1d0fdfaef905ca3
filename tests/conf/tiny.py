"""The quickstarts in seconds: too little training to end a turn, so unfinished responses are kept."""

from pathlib import Path

import train

CONF = str(Path(train.__file__).parent / "conf")
PARTS = ("dsft", "chosen", "rejected", "evaluation")
SERVED = ["loads=[0.5,1.0]", "load_seeds=[0]", "duration_s=0.2", "warmup_s=0.1", "burst_requests=4", "max_new_tokens=4"]
TINY = [
    "threads=1",
    "teacher_steps=4",
    "teacher_batch_size=8",
    "world.train.count=32",
    "world.validation.count=4",
    "data.count=24",
    "pair_data.count=96",
    "eval_data.count=8",
    "dsft_epochs=1",
    "dsft_batch_size=8",
    "batch_size=8",
    "sample_batch_size=16",
    "checkpoint_every=2",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
    "+stage.teacher_responses.callbacks.writer.keep_unfinished=true",
    "+stage.pairs.callbacks.writer.keep_unfinished=true",
    *SERVED,
    *(f"sampling.{part}.max_new_tokens=8" for part in PARTS),
]
RAST_STEPS = (
    "vanilla_steps=4",
    "style_steps=4",
    "qa_steps=4",
    "judge_qa_steps=4",
    "question_lm_steps=4",
    "rl_steps=4",
    "rl_val_every=2",
)
TINY_RAST = [
    "threads=1",
    "world.train.count=64",
    "world.validation.count=8",
    "world.test.count=6",
    *RAST_STEPS,
    "batch_size=8",
    "rl_batch_size=4",
    "generate_batch_size=4",
    "sample_batch_size=16",
    "checkpoint_every=2",
    "max_new_tokens=8",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
]
