"""Genomes: a change of heavy genes needs a training, a change of light genes an evaluation only.

>>> light = GREEDY.model_copy(update={"temperature": 0.3})
>>> light.digest() == GREEDY.digest()  # without effect under greedy decoding
True
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from coral_core.digest import digest
from coral_core.frozen import Frozen

AdapterType = Literal["lora", "dora"]
Scaling = Literal["lora", "rslora"]
REPEAT = "repeat"
"""Operator in the lineage of a finalist, whose genes are those of its parent, trained again."""
SHAPE = ("rank", "alpha", "target_modules", "adapter", "scaling")
"""Heavy genes that a training cannot change in an adapter that it goes on with."""
MOST_WARM_STARTS = 8
"""Trainings at most that an adapter has behind it when its last one begins."""
MOST_REPEATS = 99
"""Times at most that genes are trained again with other random numbers."""
MOST_TRAININGS = MOST_WARM_STARTS + 1
"""Trainings at most of one adapter, one after the other."""


class HeavyGenes(Frozen):
    """Genes that decide the weights of the adapter; a change means a new training."""

    rank: int = Field(ge=1, le=1024, description="Rank of the low-rank update.")
    alpha: float = Field(gt=0, description="Scale of the update; `scaling` says by what it is divided.")
    dropout: float = Field(ge=0, lt=1, description="Dropout on the adapter's input while training.")
    target_modules: tuple[str, ...] = Field(min_length=1, description="Names of the linear modules that are adapted.")
    adapter: AdapterType = Field(description="lora (Hu et al. 2021) or dora (Liu et al. 2024).")
    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate of AdamW.")
    scaling: Scaling = Field(
        "lora",
        exclude_if=lambda scaling: scaling == "lora",  # digests are those from before this gene
        description="Factor of B·A in the update: lora: alpha / rank; rslora: alpha / sqrt(rank) (Kalajdzievski 2023).",
    )
    warm_start: "HeavyGenes | None" = Field(
        None,
        exclude_if=lambda earlier: earlier is None,
        description="Genes of the training whose adapter this one goes on with; None: it begins with a new adapter.",
    )

    repeat: int = Field(
        0,
        ge=0,
        le=MOST_REPEATS,
        exclude_if=lambda repeat: repeat == 0,
        description="Number of the repeat of this training with other random numbers; 0: the first training of these genes.",
    )

    @model_validator(mode="after")
    def _goes_on_with_its_own_shape(self) -> Self:
        if self.warm_start is not None and self.warm_start.shape() != self.shape():
            raise ValueError(f"warm_start: an adapter of another shape ({', '.join(SHAPE)})")
        if self.trainings() > MOST_TRAININGS:
            raise ValueError(f"warm_start: more than {MOST_WARM_STARTS} trainings one after the other")
        return self

    def model_post_init(self, context: Any) -> None:
        object.__setattr__(self, "target_modules", tuple(sorted(set(self.target_modules))))

    def shape(self) -> tuple[object, ...]:
        """The genes in `SHAPE`: adapters of equal shape have the same tensors and the same use."""
        return tuple(getattr(self, gene) for gene in SHAPE)

    def first(self) -> "HeavyGenes":
        """These genes as they are trained for the first time."""
        return self.model_copy(update={"repeat": 0}) if self.repeat else self

    def chain(self) -> "tuple[HeavyGenes, ...]":
        """The genes of the trainings that make the adapter, in their order; these genes are the last."""
        genes = [self]
        while (earlier := genes[-1].warm_start) is not None:
            genes.append(earlier)
        return tuple(reversed(genes))

    def repeated(self, times: int) -> "HeavyGenes":
        """These genes trained `times` times, each training going on with the adapter of the one before.

        >>> DEFAULT_LORA.repeated(3).trainings(), DEFAULT_LORA.repeated(1) == DEFAULT_LORA
        (3, True)
        """
        made = self
        for _ in range(times - 1):
            made = self.model_copy(update={"warm_start": made})
        return made

    def trainings(self) -> int:
        """Number of trainings that made the adapter, one after the other; 1 without a warm start.

        >>> DEFAULT_LORA.model_copy(update={"warm_start": DEFAULT_LORA}).trainings()
        2
        """
        return len(self.chain())

    def digest(self) -> str:
        return digest(self.model_dump(mode="json"))


class LightGenes(Frozen):
    """Genes that decide how patches are generated; a change needs no training."""

    temperature: float = Field(gt=0, le=5, description="Softmax temperature; used when sampling.")
    top_p: float = Field(gt=0, le=1, description="Nucleus mass kept; used when sampling.")
    top_k: int = Field(ge=0, le=10_000, description="Most likely tokens kept, 0 for all; used when sampling.")
    repetition_penalty: float = Field(
        ge=0.1, le=5, description="Logits of tokens already generated or prompted are divided (or multiplied) by it."
    )
    token_limit: int = Field(ge=1, le=8192, description="Most new tokens per patch.")
    sampling: bool = Field(
        description="True: sample. False: greedy; temperature, top-p and top-k are then without effect."
    )

    def effective(self) -> dict[str, Any]:
        """The genes that change the outcome: under greedy decoding the sampling genes do not."""
        genes = self.model_dump(mode="json")
        if not self.sampling:
            for name in ("temperature", "top_p", "top_k"):
                del genes[name]
        return genes

    def digest(self) -> str:
        return digest(self.effective())


GREEDY = LightGenes(temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0, token_limit=128, sampling=False)
"""Greedy decoding, with neutral values for the genes of sampling."""


def neutral(most_tokens: int) -> LightGenes:
    """Greedy decoding with `most_tokens` new tokens per patch at most; used for the base model and the default LoRA."""
    return GREEDY.model_copy(update={"token_limit": most_tokens})


class Automaton(Frozen):
    """A cellular automaton that expresses genes: binary torus, outer-totalistic rule, number of steps (search/automaton.py)."""

    grid: tuple[tuple[int, ...], ...] = Field(description="Rows of cells, 0 or 1.")
    rule: int = Field(ge=0, lt=2**18, description="18 bits: bit 9*cell + neighbours is the next state.")
    steps: int = Field(ge=1, le=1000)


class Features(Frozen):
    """Statistics of an automaton's history; each in [0, 1]."""

    complexity: float = Field(ge=0, le=1)
    intensity: float = Field(ge=0, le=1)
    periodicity: float = Field(ge=0, le=1)
    convergence: float = Field(ge=0, le=1)


class Lineage(Frozen):
    """Parents and operator of a genome."""

    parents: tuple[str, ...] = ()
    operator: str = Field(description="seed, elite, crossover, mutate-automaton, mutate-genes, random, given, ...")


class Genome(Frozen):
    """One candidate. `genome_id` is ``g<generation>-<slot>`` (unique in a run and stable in a replay)."""

    genome_id: str = Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*/)?g\d{3,9}-\d{3,9}$")
    generation: int = Field(ge=0)
    slot: int = Field(ge=0)
    heavy: HeavyGenes
    light: LightGenes
    automaton: Automaton | None = None
    features: Features | None = None
    lineage: Lineage

    def genes_digest(self) -> str:
        """Digest of the genes without id and origin: two genomes with equal genes are the same candidate."""
        return genes_digest(self.heavy, self.light)


def genes_digest(heavy: HeavyGenes, light: LightGenes) -> str:
    """Digest of heavy and light genes together; light genes without effect do not count."""
    return digest({"heavy": heavy.model_dump(mode="json"), "light": light.effective()})


def genome_id(generation: int, slot: int) -> str:
    """The id of a genome in its run.

    Args:
        generation: Number of the generation, from 0.
        slot: Place in the generation, from 0.

    Example:
        >>> genome_id(3, 12)
        'g003-012'
    """
    return f"g{generation:03d}-{slot:03d}"


DEFAULT_LORA = HeavyGenes(
    rank=8,
    alpha=16,
    dropout=0.0,
    target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
    adapter="lora",
    learning_rate=5e-3,
)
"""The usual LoRA settings, with a learning rate for coral-tiny (see `default_lora`)."""


def default_lora(base_model: str, modules: Sequence[str] = ()) -> HeavyGenes:
    """The default LoRA: rank 8, alpha 16; learning rate 5e-3 for coral-tiny and the rehearsal, 2e-4 for other models.

    Args:
        base_model: Name of the base model.
        modules: Usual target modules of its architecture (coral_core/lm/targets.py); empty for the q, k, v, o projections.

    Example:
        >>> default_lora("coral-tiny").learning_rate, default_lora("codellama/CodeLlama-7b-hf").learning_rate
        (0.005, 0.0002)
    """
    rate = DEFAULT_LORA.learning_rate if _is_tiny(base_model) else 2e-4
    targets = tuple(sorted(modules)) or DEFAULT_LORA.target_modules
    return DEFAULT_LORA.model_copy(update={"learning_rate": rate, "target_modules": targets})


USUAL_RANKS = (8, 16)
"""Ranks of the LoRAs that an engineer would try first."""


def usual_learning_rates(base_model: str) -> tuple[float, ...]:
    """Learning rates that an engineer would try first for a LoRA, ascending; that of `default_lora` is one of them.

    Args:
        base_model: Name of the base model.

    Example:
        >>> usual_learning_rates("codellama/CodeLlama-7b-hf")
        (0.0002, 0.0005, 0.001, 0.002)
    """
    return (2e-3, 5e-3, 1e-2, 2e-2) if _is_tiny(base_model) else (2e-4, 5e-4, 1e-3, 2e-3)


def _is_tiny(base_model: str) -> bool:
    """Whether the model is so small that adapters need large learning rates: coral-tiny, or the rehearsal of it."""
    return base_model.startswith(("coral-tiny", "rehearsal"))
