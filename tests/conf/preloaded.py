"""What a process that is forked to run the command line finds imported already: all that the quickstarts use."""

import lightning  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import spacy  # noqa: F401
import torch._dynamo  # noqa: F401
from transformers.models.qwen2 import modeling_qwen2  # noqa: F401
from transformers.models.t5 import modeling_t5  # noqa: F401

import callbacks.report.distillation
import callbacks.report.questions  # noqa: F401
import datamodules.preference_pairs
import datamodules.question_generation  # noqa: F401
import lightning_modules  # noqa: F401
import train  # noqa: F401
