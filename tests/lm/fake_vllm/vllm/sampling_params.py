"""The part of vllm.sampling_params that the engine uses."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    temperature: float
    max_tokens: int
    ignore_eos: bool
    detokenize: bool
    output_kind: RequestOutputKind
    stop_token_ids: list[int] = field(default_factory=list)
    extra_args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        assert self.temperature == 0 and self.max_tokens >= 1
