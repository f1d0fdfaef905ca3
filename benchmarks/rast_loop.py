"""RAST's training step the straightforward way: what RASTModule is held against.

One generate call a template, the QA model asked question by question, and nothing that one model has encoded handed to
another decoding. ``whole_templates`` puts the passages of a batch through each call together, one template each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import get_cosine_schedule_with_warmup

from benchmarks.rast_world import SAMPLING
from datamodules.batches import Example, QuestionBatch
from datamodules.templates import template_words, word_jaccard
from lightning_modules import RASTModule
from lightning_modules.rast.rollout import answer_span
from lightning_modules.sampling import generation_config
from lightning_modules.trainable import parameter_groups

IGNORED = -100


class Asked(NamedTuple):
    """Everything that a step has come to, question by question (N = passages × templates, a passage's in a row)."""

    rewards: Tensor
    """(N,)."""
    greedy_rewards: Tensor
    """(N,)."""
    tokens: int
    """Of the sampled questions, their ends included."""
    loss: Tensor


class Loop:
    """The same models, settings, optimizers and draws of templates as the module's; the questions are its own.

    Args:
        module: Built, and not trained itself: the loop trains its policy and retriever.
        steps: Of the schedule.
        whole_templates: See the file's docstring.
    """

    def __init__(self, module: RASTModule, steps: int, *, whole_templates: bool):
        assert module.retriever is not None
        assert module._frozen is not None
        self.module, self.whole_templates = module, whole_templates
        self.policy, self.retriever, self.frozen = module.trained_policy, module.retriever, module._frozen
        self.encoder, self.tokenizer, self.count = module.questioner.encoder, module.tokenizer, module.questioner.count
        makers = (module.make_optimizer, module.make_second_optimizer)
        self.parts = module.trained_parts()
        self.optimizers = [
            make(parameter_groups(part.parameters())) for make, part in zip(makers, self.parts, strict=True)
        ]
        self.schedules = [get_cosine_schedule_with_warmup(one, 0, steps) for one in self.optimizers]

    def step(self, batch: QuestionBatch, seed: int) -> Asked:
        """One update."""
        asked = self.ask(batch, seed)
        asked.loss.backward()
        for part, optimizer, schedule in zip(self.parts, self.optimizers, self.schedules, strict=True):
            torch.nn.utils.clip_grad_norm_(part.parameters(), self.module.clip)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        return asked

    def ask(self, batch: QuestionBatch, seed: int, given: Tensor | None = None) -> Asked:
        """Questions, rewards and loss; ``given`` (N, T) takes the place of what is sampled."""
        torch.manual_seed(seed)
        firsts = [self._first_template(example) for example in batch.examples]
        styles = self.retriever.draw(firsts, batch.own_template, self.count)
        size = len(firsts) * self.count
        groups = [list(range(k, size, self.count)) for k in range(self.count)]
        logps, kls, rewards, greedy = ([torch.zeros(())] * size for _ in range(4))
        tokens = 0
        for group in groups if self.whole_templates else [[row] for row in range(size)]:
            examples = [batch.examples[row // self.count] for row in group]
            templates = [styles.templates[row // self.count][row % self.count] for row in group]
            inputs = self._padded([self.encoder.styled(*both) for both in zip(examples, templates, strict=True)])
            labels = self._write(inputs, sample=True) if given is None else given[group]
            greedily = self._write(inputs, sample=False)
            tokens += int((labels != IGNORED).sum())
            found = self._log_probability(inputs, labels), self._divergence(inputs, labels)
            for place, row in enumerate(group):
                about = examples[place], templates[place]
                rewards[row], greedy[row] = (self._reward(one[place], *about) for one in (labels, greedily))
                logps[row], kls[row] = (sums[place] for sums in found)
        shape = len(firsts), self.count
        reward, base, logp = (torch.stack(many).view(shape) for many in (rewards, greedy, logps))
        draw = styles.draw
        of_retriever = -(draw.weights * reward * (draw.within_logps + draw.cluster_logps)).sum(1).mean()
        loss = -((reward - base) * logp).mean() + of_retriever
        loss = loss + self.module.objective.kl_weight * torch.stack(kls).mean()
        return Asked(reward.flatten(), base.flatten(), tokens, loss)

    def _first_template(self, example: Example) -> str:
        inputs = self._padded([self.encoder.passage(example)])
        labels = self._generated(self.frozen.vanilla, inputs, sample=False)
        return self.module.questioner.template_of(self._text(labels[0]), example.context, example.answer)

    def _write(self, inputs: dict[str, Tensor], *, sample: bool) -> Tensor:
        return self._generated(self.policy, inputs, sample=sample)

    def _generated(self, model, inputs: dict[str, Tensor], *, sample: bool) -> Tensor:
        how = SAMPLING if sample else self.module.questioner.greedily
        with torch.no_grad():
            made = model.generate(**inputs, generation_config=generation_config(model, self.tokenizer, how))[:, 1:]
        ends = made == self.tokenizer.eos_token_id
        return made.masked_fill(ends.cumsum(1) - ends.int() > 0, IGNORED)

    def _reward(self, labels: Tensor, example: Example, template: str) -> Tensor:
        """exp(−mean cross-entropy of the answer) + λ · overlap with the template."""
        question, weights = self._text(labels), self.module.objective.rewards.weights
        answer = self.tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        target = torch.tensor([[*answer, self.tokenizer.eos_token_id]])
        asked = self.encoder.qa(example.context, question, answer_span(example))
        with torch.no_grad():
            nll = self.frozen.qa(**self._padded([asked]), labels=target).loss
        overlap = word_jaccard(template_words(question), template_words(template))
        return weights["consistency"] * (-nll).exp() + weights["diversity"] * overlap

    def _log_probability(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        self._log_p = self.policy(**inputs, labels=labels).logits.log_softmax(-1)
        chosen = self._log_p.gather(-1, labels.clamp(min=0)[:, :, None]).squeeze(-1)
        return (chosen * (labels != IGNORED)).sum(1)

    def _divergence(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            log_q = self.frozen.reference(**inputs, labels=labels).logits.log_softmax(-1)
        per_token = (self._log_p.exp() * (self._log_p - log_q)).sum(-1)
        return (per_token * (labels != IGNORED)).sum(1)

    def _padded(self, rows: list[list[int]]) -> dict[str, Tensor]:
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.int64) for row in rows], batch_first=True)
        return {"input_ids": ids, "attention_mask": mask}

    def _text(self, labels: Tensor) -> str:
        return str(self.tokenizer.decode(labels[labels != IGNORED], skip_special_tokens=True)).strip()
