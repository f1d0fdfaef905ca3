"""A served teacher: log-probabilities of responses over OpenAI's completions protocol."""

from lightning_modules.endpoint.client import CompletionsEndpoint
from lightning_modules.endpoint.scorer import EndpointScorer, check_scorer, endpoint_scorers

__all__ = ["CompletionsEndpoint", "EndpointScorer", "check_scorer", "endpoint_scorers"]
