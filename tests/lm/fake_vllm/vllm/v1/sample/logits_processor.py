"""The part of vllm.v1.sample.logits_processor that the engine uses."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: list[int]
    added: list[Any]
    moved: list[Any]


class LogitsProcessor:
    pass
