"""Answers by vLLM, which is started for each model and lives in an environment of its own.

vLLM fixes its torch and transformers to the patch, and they are not ours: so it is a command named by a path, which
serves one folder on loopback for as long as it is asked, and gets and gives token ids.
"""

from lightning_modules.vllm.sampler import VLLMSampler
from lightning_modules.vllm.settings import VLLMSettings, check_vllm

__all__ = ["VLLMSampler", "VLLMSettings", "check_vllm"]
