"""What a composed config leads to: models, tokenizers and rows, as they are or as an earlier stage will make them."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import PreTrainedTokenizerBase

from callbacks.run.estimate.models import Reading
from callbacks.run.estimate.row_lengths import Lengths, Rows, lengths_of, sampled, whole_of
from callbacks.run.estimate.settings import Settings
from callbacks.run.estimate.shape import ModelShape, shape_of
from callbacks.run.plan import stage_config
from datamodules.encoding import load_tokenizer
from datamodules.pairs import source_name
from datamodules.rows import JSON_SUFFIXES
from datamodules.wrong_input import WrongInput

FIRST_ROWS = re.compile(r"\[:(\d+)\]$")
"""``org/name@split[:500]``."""
FILES = (*JSON_SUFFIXES, ".parquet")


class Parts(NamedTuple):
    """What knows models: a plan asks it, and no more."""

    skeleton: Callable[..., nn.Module]
    """``skeleton(source, tokenizer)``: a model without weights, on torch's meta device."""
    reads_packed: Callable[..., tuple[str | None, float]]
    """``reads_packed(skeleton, packing, cuda)``: how a model reads packed rows, see ``Reading``."""
    pruned: Callable[..., nn.Module]
    """``pruned(skeleton, ratio, widths, multiple_of)``: what stage ``prune`` leaves of it, without weights."""


class Reader:
    """Looks things up once for all stages. Nothing is fetched but configs and tokenizers, and no weights are read.

    Args:
        config: The composed config.
        settings: What is assumed where there is nothing to read.
        parts: Makes models without weights, and tells how they read packed rows.
    """

    def __init__(self, config: DictConfig, settings: Settings, parts: Parts):
        self.config, self.settings, self.parts = config, settings, parts
        self._skeletons: dict[str, nn.Module] = {}
        self._readings: dict[str, Reading] = {}
        self._shapes: dict[str, ModelShape] = {}
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._rows: dict[str, Rows] = {}

    def tokenizer(self, part: Mapping[str, Any]) -> PreTrainedTokenizerBase:
        """The tokenizer that a config describes; of a model still to be trained, the one it will be trained with."""
        source = part.get("source")
        if isinstance(source, str) and (stage := self.maker(source)):
            return self.tokenizer(self.stage(stage)["module"]["tokenizer"])
        key = repr(part)
        if key not in self._tokenizers:
            made = load_tokenizer(source) if isinstance(source, str) else hydra.utils.instantiate(dict(part))
            self._tokenizers[key] = made
        return self._tokenizers[key]

    def shape(self, source: Any, tokenizer: PreTrainedTokenizerBase) -> ModelShape:
        """The shape of a model; of one still to be trained, that of its start; of one still to be pruned, pruned.

        Raises:
            WrongInput: No such model, none whose work is known here, or none that can be pruned so.
        """
        key = repr(source)
        if key not in self._shapes:
            try:
                self._shapes[key] = shape_of(self._skeleton(source, tokenizer))
            except ValueError as error:
                where = source if isinstance(source, str) else "model"
                raise WrongInput(
                    f"no plan can be made of it: {error}", where, "choose one (Llama's, Qwen's, …)"
                ) from error
        return self._shapes[key]

    def reading(self, source: Any, tokenizer: PreTrainedTokenizerBase, packing: str, cuda: bool) -> Reading:
        """How a model reads packed rows; see ``shape``."""
        key = repr((source, packing, cuda))
        if key not in self._readings:
            self._readings[key] = Reading(*self.parts.reads_packed(self._skeleton(source, tokenizer), packing, cuda))
        return self._readings[key]

    def rows(self, source: Any, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Rows:
        """Lengths of a source's rows; of a file that a stage will write, of the rows that this stage reads."""
        if isinstance(source, str) and (stage := self.maker(source)):
            return self.rows(self.stage(stage)["datamodule"]["data"], tokenizer, max_length)
        if isinstance(source, Mapping) and (whole := whole_of(source)) is not source:  # one of several shares
            rows = self.rows(whole, tokenizer, max_length)
            return rows._replace(count=max(1, round(rows.count / source["of"])))
        key = repr(source)
        if key not in self._rows:
            self._rows[key] = self._read(source, tokenizer, max_length)
        return self._rows[key]

    def maker(self, path: str) -> str | None:
        """The stage of this run that will make what is not there yet."""
        output_dir = Path(self.config.paths.output_dir)
        if Path(path).exists() or not Path(path).is_relative_to(output_dir):
            return None
        stage = Path(path).relative_to(output_dir).parts[0]
        if stage not in self.config.stages:
            raise WrongInput(f"it needs what stage {stage} leaves", path, f"add {stage} to stages=")
        return stage

    def stage(self, name: str) -> dict[str, Any]:
        """A stage's resolved config."""
        return stage_config(self.config, name)

    def key(self, stage: str, part: str, name: str) -> str:
        """What sets a stage's value on the command line: the short key that it interpolates, or its own."""
        raw: Any = OmegaConf.to_container(self.config.stage[stage], resolve=False)
        short = re.fullmatch(r"\$\{(\w+)\}", str(raw[part].get(name)))
        return short[1] if short else f"stage.{stage}.{part}.{name}"

    def _skeleton(self, source: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        key = repr(source)
        if key not in self._skeletons:
            self._skeletons[key] = self._made(source, tokenizer)
        return self._skeletons[key]

    def _made(self, source: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        maker = self.maker(source) if isinstance(source, str) else None
        if maker is None:
            return self.parts.skeleton(source, tokenizer)
        stage = self.stage(maker)
        module = stage["module"]
        start = self._skeleton(module.get("student", module.get("model")), tokenizer)
        if stage.get("work") != "pruning":
            return start
        return self.parts.pruned(start, module["ratio"], module["widths"], module["multiple_of"])

    def _read(self, source: Any, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Rows:
        if isinstance(source, Mapping):
            source = hydra.utils.instantiate(dict(source), _convert_="all")
        if isinstance(source, str) and not Path(source).is_file():
            if Path(source).is_absolute() or source.startswith(".") or Path(source).suffix in FILES:
                raise WrongInput("there is no such file", source, "check data=")
            return self._assume(source)
        kept, count = sampled(source, self.settings.sample_rows)
        lengths = [one for row in kept for one in lengths_of(row, tokenizer, max_length)]
        if not lengths:
            raise WrongInput("there are no rows", source_name(source), "give rows with a `prompt`")
        assumed = (f"lengths of {len(kept)} of {count} rows",) if len(kept) < count else ()
        return Rows(lengths, round(count * len(lengths) / len(kept)), assumed)

    def _assume(self, source: str) -> Rows:
        """Of a Hub id nothing is fetched."""
        made = self.settings
        named = FIRST_ROWS.search(source)
        rows = int(named[1]) if named else made.rows
        said = f"{source}: {rows} rows, prompts of {made.prompt_tokens} tokens"
        return Rows([Lengths(made.prompt_tokens, {})], rows, (said,))
