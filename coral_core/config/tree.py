"""The configuration tree. Every key has an effect (tests/config/test_every_key.py proves it).

Defaults are those of a laptop run with the embedded base model; `configs/` holds the
quickstart and the production (CodeLlama) files.
"""

import math
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from coral_core.config.budget_config import BudgetConfig
from coral_core.config.gene_space import AutomatonConfig as AutomatonConfig
from coral_core.config.gene_space import GenesConfig as GenesConfig
from coral_core.config.gene_space import module_names as module_names
from coral_core.config.scoring_config import JudgeConfig as JudgeConfig
from coral_core.config.scoring_config import ObjectiveName as ObjectiveName
from coral_core.config.scoring_config import ScoringConfig as ScoringConfig
from coral_core.config.section import ConfigSection, conflict
from coral_core.config.strategy_names import StrategyName
from coral_core.config.text_fields import Day, PathText, Prompt, Revision
from coral_core.config.yaml_document import dotted, find_problem

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=10_000)]
Positive = Annotated[int, Field(ge=1, le=10_000)]
NamePattern = Annotated[str, Field(min_length=1, max_length=200)]
SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
LaneCount = Annotated[int, Field(ge=1, le=1024, description="Lanes at most.")]
Minutes = Annotated[
    float, Field(ge=0.001, le=10_000, description="Time limit of one job's work; waiting is not counted.")
]
Deployment = Annotated[
    str, Field(pattern=r"^[^/]+/[^/]+$", description="Prefect deployment of such lanes (executor work-pools).")
]

DeviceMemory = Annotated[
    float,
    Field(
        gt=0,
        le=10_000,
        description="GPU memory of such a lane in GB (executor work-pools); jobs that need more are refused.",
    ),
]
LaneMemory = Annotated[
    float,
    Field(
        gt=0,
        le=100_000,
        description="Host memory of such a lane in GB (executor work-pools); jobs that need more are refused.",
    ),
]

MadeBugClass = Literal[
    "comparison", "arithmetic", "constant", "called-name", "variable", "boolean", "index", "missing-step"
]
"""Classes of bugs that can be made; a source may also say that it does not know one, or that there is no bug."""
BUG_CLASSES: tuple[MadeBugClass, ...] = get_args(MadeBugClass)


SeedSource = Literal["automaton", "uniform", "sobol"]


class EarlyStopping(ConfigSection):
    """Stops a run when the best fitness no longer rises."""

    enabled: bool = Field(True, description="Whether the run may end before its last generation.")
    patience: Positive = Field(3, description="Generations without improvement that are tolerated.")
    minimum_improvement: Share = Field(0.005, description="A smaller rise of the best fitness counts as none.")
    minimum_generations: Positive = Field(4, description="Never stop before this many generations.")


class VariationConfig(ConfigSection):
    """Variation: how children differ from their parents."""

    crossover_rate: Share = Field(0.5, description="Share of children with two parents; the rest has one.")
    seed_rate: Share = Field(0.0, description="Share of later genomes that are fresh seeds instead of children.")
    seeds: SeedSource = Field(
        "sobol",
        description="Where the genes of the first generation and of later fresh seeds come from: sobol (points of a scrambled Sobol sequence), uniform (each gene drawn over its candidates or range), automaton (features of a cellular automaton, which tie the genes together).",
    )
    warm_start_rate: Share = Field(
        0.0,
        description="Share of children of one parent that go on with the parent's adapter: same rank, alpha, modules and kind, trained once more. 0: every training begins with a new adapter.",
    )
    warm_start_best: int = Field(
        0,
        ge=0,
        le=1000,
        description="Fittest adapters per generation that are trained once more, in the last one at the next lower learning rate, whatever the models of the surrogate prefer. Only with warm_start_rate above 0.",
    )
    automaton_rate: Share = Field(
        0.25, description="Share of mutations of the automaton; the rest changes genes directly."
    )
    cell_flip_rate: Share = Field(0.05, description="Chance that a cell of a mutated automaton flips.")
    rule_flip_rate: Share = Field(0.1, description="Chance that a bit of the rule flips.")
    steps_change: int = Field(3, ge=0, le=100, description="Largest change of the number of steps.")
    gene_rate: Share = Field(0.25, description="Chance that a gene changes in a direct mutation.")
    gene_step: float = Field(0.25, gt=0, le=1, description="Typical step of a changed gene, as a share of its range.")


class DiversityConfig(ConfigSection):
    """Measures that keep a population diverse."""

    minimum_unique: Share = Field(
        0.75, description="Share of the first population that must have distinct heavy genes."
    )
    spread: int = Field(
        3,
        ge=1,
        le=1000,
        description="Draws per seed of the first population, at most 1,024 in all; the one whose heavy genes lie farthest from those kept before is kept.",
    )
    mode: Literal["fixed", "adaptive"] = Field(
        "adaptive", description="adaptive: variation grows when genomes repeat or progress stalls."
    )
    strength: float = Field(1.0, ge=0.1, le=4, description="Factor on the mutation rates (the base, when adaptive).")


class SurrogateConfig(ConfigSection):
    """A model of everything measured, which chooses the children that are trained, and the champion."""

    enabled: bool = Field(
        True,
        description="true: more children are bred than trained, and a champion without finalists is chosen half by what a model expects; false: each child is trained, and the champion is the fittest as measured.",
    )
    children: int = Field(
        16, ge=1, le=1000, description="Children bred per genome that is trained; at most 1,024 per generation."
    )
    front_share: Share = Field(
        0.5, description="Share of the children that are chosen for the Pareto front; the rest for the champion."
    )


class SearchConfig(ConfigSection):
    """The strategy that proposes genomes."""

    strategy: StrategyName = Field(
        "evolution",
        description="evolution, random, grid, sobol, tpe, tpe-fitness, nsga2 (these three of Optuna), fixed (the default LoRA alone), or the name of a plug-in (docs/search.md).",
    )
    generations: Positive = Field(4, description="Generations at most.")
    population: Positive = Field(8, description="Genomes per generation.")
    trainings: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Adapters with distinct heavy genes at most; the generation that would exceed it is cut there and is the last. Null: no limit but generations.",
    )
    gpu_seconds: float | None = Field(
        None,
        gt=0,
        le=1e10,
        description="Lane seconds at most that adapters and evaluations of the search first cost, wherever they were made; the generation that reaches it is the last. Null: no limit.",
    )
    money: float | None = Field(
        None, gt=0, le=1e9, description="The same in money, at the prices of budget.price. Null: no limit."
    )
    selection: Literal["nsga2", "tournament", "truncation"] = Field(
        "nsga2",
        description="nsga2: constrained domination and crowding (Deb et al. 2002); the others use the scalar fitness.",
    )
    tournament_size: int = Field(2, ge=2, le=10_000, description="Genomes that compete for one parent slot.")
    survival_rate: float = Field(0.5, gt=0, le=1, description="Share of the population that may become parents.")
    start_with_default: bool = Field(
        True,
        description="The first genome is the default LoRA decoded greedily (or the nearest that the candidates allow): it is a baseline anyway.",
    )
    usual_loras: Count = Field(
        0,
        description="Genomes of the first population that are further usual LoRAs decoded greedily: on the largest set of target modules, of rank 16 and then 8, with alpha of twice the rank, the default LoRA's learning rate and then the other usual ones, the lowest first; at most as many as there is room for. Each moves to the nearest candidates.",
    )
    baselines: Literal["quick", "tuned"] = Field(
        "quick",
        description="What the champion must beat. quick: the base model and the customary default LoRA; tuned: also the best on the fitness split of 16 usual LoRAs (rank 8 and 16, attention and all modules, four learning rates): at most 16 trainings more.",
    )
    start_from: Literal["nothing", "last-champion"] = Field(
        "nothing",
        description="last-champion: the first population holds the champion and the survivors of the last finished run of this name in runs; the rest is fresh.",
    )
    elites: Count = Field(
        0,
        description="Best genomes that are carried over unchanged: so many fewer children per generation. Parents come from all generations in any case.",
    )
    finalist_share: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="evolution: share of the trainings with which the fittest genomes are trained again with other random numbers, in the last generation; of their genes those of the best mean are the champion's. Below two trainings, or with fewer than 4 generations: none.",
    )
    champion_repeats: int = Field(
        0,
        ge=0,
        le=100,
        description="Times the champion is trained and evaluated anew with other random numbers, at the end, on the fitness split: how much of its score was luck.",
    )
    variation: VariationConfig = Field(default_factory=VariationConfig, description="How children are made.")
    diversity: DiversityConfig = Field(
        default_factory=DiversityConfig, description="Measures that keep a population diverse."
    )
    surrogate: SurrogateConfig = Field(
        default_factory=SurrogateConfig, description="The model that chooses among children."
    )
    early_stopping: EarlyStopping = Field(default_factory=EarlyStopping, description="When to end early.")

    @property
    def finalists(self) -> int:
        """Number of genomes that the last generation of an evolution trains again; 0: there is no such generation.

        A single finalist would be champion whatever came out, and of few generations one more that breeds is worth more.
        """
        if self.strategy != "evolution" or self.generations < 4:
            return 0
        budget = self.generations * self.population
        count = min(self.population - self.elites, round(self.finalist_share * min(budget, self.trainings or budget)))
        return count if count > 1 else 0

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        size, parents = self.population, int(self.survival_rate * self.population)
        if self.trainings is not None and self.trainings < size:
            raise conflict(
                f"trainings {self.trainings} are too few for one generation of population {size}: raise trainings, or lower population",
                "trainings",
                "population",
            )
        rules = (
            ("population", size < 4, "is too small for evolution: use at least 4, or strategy: random"),
            ("elites", self.elites >= size, f"leave no room in a population of {size}: lower elites"),
            ("survival_rate", parents < 2, f"of population {size} leaves fewer than 2 parents: raise one of them"),
            ("tournament_size", self.tournament_size > size, f"is above population {size}: lower it"),
        )
        for key, broken, problem in rules if self.strategy == "evolution" else ():
            if broken:
                raise conflict(f"{key} {getattr(self, key)} {problem}", key, "population")
        for key, broken in (
            ("start_from", self.start_from != "nothing"),
            ("start_with_default", not self.start_with_default),
        ):
            if broken and self.strategy == "fixed":
                problem = "has no meaning for the strategy fixed, which is the default LoRA: leave it out"
                raise conflict(f"{key} {getattr(self, key)} {problem}", key, "strategy")
        return self


class BaseModelConfig(ConfigSection):
    """The code model that adapters are trained for."""

    name: PathText = Field(
        "coral-tiny",
        min_length=1,
        description="coral-tiny (embedded), smollm2 (after coral model fetch smollm2), rehearsal (no model: exercises an installation), a directory, or a Hugging Face name.",
    )
    revision: Revision | None = Field(None, description="Commit, tag or branch on the hub; resolved once to a commit.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Type of the frozen weights; auto: bfloat16 where the lane's device multiplies it in hardware, else float32.",
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:[0-9]{1,3})?|auto)$", description="cpu, cuda, cuda:N, or auto.")
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="nf4: linear modules in 4 bits through bitsandbytes (QLoRA, Dettmers et al. 2023); the output head stays in dtype.",
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto", description="Implementation of attention; auto: sdpa where the architecture supports it, else eager."
    )
    prompt: Prompt = Field(
        "auto",
        description="chat (the model's chat template), instruct, plain, tiny, a .yaml file of your own, or auto: tiny for coral-tiny, "
        "else chat where the model has a chat template, else instruct.",
    )


class TrainingPairsConfig(ConfigSection):
    """Source of the training pairs, when it is not that of the problems."""

    source: SourceName = Field(
        "auto",
        description="auto: the training pairs of problems.source, or builtin mutants where it has none (quixbugs); or a source by name.",
    )
    path: PathText | None = Field(
        None,
        min_length=1,
        description="Path that the training source reads; problems.path when both sources are the same.",
    )

    @model_validator(mode="after")
    def _read(self) -> Self:
        if self.path is not None and self.source in ("auto", "builtin"):
            raise conflict(f"path {self.path} would not be read: the training source {self.source} has no path", "path")
        return self


class HistoryConfig(ConfigSection):
    """The walk over the commits of a repository (problems.source: git)."""

    revision: Revision = Field(
        "HEAD",
        description="Commit to begin with: HEAD, a branch, a tag or a whole hash. Its functions get the mutants.",
    )
    since: Day | None = Field(None, description="Oldest author date of a commit, as YYYY-MM-DD.")
    max_commits: int = Field(200, ge=1, le=100_000, description="Commits looked at, newest first.")
    seconds: float = Field(
        120, ge=5, le=3600, description="Wall-clock limit of the test runs of one commit, in seconds."
    )
    workers: int = Field(
        0, ge=0, le=256, description="Commits examined at a time; 0: one per core. Changes no problem."
    )


class ProblemsConfig(ConfigSection):
    """The bugs to repair, split four ways."""

    source: SourceName = Field(
        "builtin",
        description="Where problems come from: builtin, quixbugs, jsonl, package, git, or the name of a plug-in.",
    )
    path: PathText | None = Field(
        None,
        min_length=1,
        description="Path that the source reads: a clone of QuixBugs, a JSONL file, a directory of code, a git repository.",
    )
    python: PathText | None = Field(
        None,
        min_length=1,
        description="Interpreter that runs the tests of the directory (.venv/bin/python, say); null: the one that runs CORAL-X.",
    )
    fitness: int = Field(
        96,
        ge=4,
        le=10_000,
        description="Bugs that decide fitness (sources without an own split; builtin adds half of retention).",
    )
    retention: Count = Field(
        24,
        description="Problems added to the fitness split (at most; jsonl brings its own): right functions that must stay so; with builtin half of them are bugs of families that coral-tiny was trained to repair.",
    )
    monitor: Count = Field(48, description="Bugs for the curve over generations (as fitness).")
    held_out: int = Field(300, ge=4, le=10_000, description="Sealed problems, opened once, at the end (as fitness).")
    pairs: int = Field(384, ge=8, le=1_000_000, description="Training pairs that are made (jsonl brings its own).")
    bug_classes: tuple[MadeBugClass, ...] = Field(
        BUG_CLASSES, min_length=1, description="Defect classes of bugs that are made."
    )
    data_seed: int = Field(1, ge=0, lt=2**53, description="Seed of the problem generator.")
    training: TrainingPairsConfig = Field(
        TrainingPairsConfig(), description="Where adapters learn from, when not from the problems' own source."
    )
    history: HistoryConfig = Field(
        HistoryConfig(), description="Which commits become problems (source git, also as training source)."
    )
    include: tuple[NamePattern, ...] = Field(
        (),
        max_length=1000,
        description="Problems to use, as globs on their names (of functions, or of ids between slashes); empty: all.",
    )
    exclude: tuple[NamePattern, ...] = Field(
        (), max_length=1000, description="Problems not to use, as globs like those of include."
    )
    longest: int | None = Field(
        None,
        ge=20,
        le=1_000_000,
        description="Characters of a buggy function, or of its reference, at most; longer problems are left out. Null: no limit.",
    )
    accept_leaks: tuple[str, ...] = Field(
        (), description="Sources, by name, whose leaks (answers trained on, functions in two splits) are accepted."
    )

    @model_validator(mode="after")
    def _accepted(self) -> Self:
        if self.history != HistoryConfig() and "git" not in (self.source, self.training.source):
            raise conflict(f"history would not be read: the source {self.source} has no commits", "history", "source")
        for name in self.accept_leaks:
            if name not in (self.source, self.training.source):
                raise conflict(
                    f"accept_leaks names {name}, which this configuration does not use: source is {self.source}, "
                    f"training.source {self.training.source}",
                    "accept_leaks",
                )
        return self


class TrainingConfig(ConfigSection):
    """Training of an adapter."""

    steps: int = Field(90, ge=1, le=1_000_000, description="Optimiser steps.")
    batch_size: int = Field(8, ge=1, le=4096, description="Examples per step.")
    warmup: int = Field(10, ge=0, le=1_000_000, description="Steps of linear warm-up; linear decay follows.")
    weight_decay: Share = Field(0.0, description="AdamW weight decay on adapter weights.")
    gradient_clip: float = Field(1.0, ge=1e-6, le=1e6, description="Largest norm of the gradient.")
    sequence_length: int = Field(
        192, ge=16, le=32_768, description="Longest prompt plus answer in tokens; longer pairs are dropped."
    )
    micro_batch: int = Field(
        0,
        ge=0,
        le=4096,
        description="Examples computed at a time; the gradients of a step add up (gradient accumulation). 0: the whole batch. Saves memory.",
    )
    checkpointing: bool = Field(
        False,
        description="Gradient checkpointing: activations are computed again in the backward pass. Saves memory, costs a third more time.",
    )

    @model_validator(mode="after")
    def _warmup(self) -> Self:
        if self.warmup >= self.steps:
            raise conflict(f"warmup {self.warmup} must be below steps {self.steps}", "warmup", "steps")
        return self


class GenerationConfig(ConfigSection):
    """Generation of patches."""

    engine: Literal["torch", "vllm"] = Field(
        "torch",
        description="torch: in the environment of CORAL-X; vllm: in another one, infra.evaluation.python (docs/engines.md). One run uses one engine for all evaluations; results of the two are never mixed.",
    )
    batch_size: int = Field(
        32,
        ge=1,
        le=4096,
        description="Rows that are generated together; part of the digests. More rows are faster and need more memory.",
    )
    samples: int = Field(1, ge=1, le=1000, description="Patches per problem when sampling (greedy always makes one).")
    prompt_length: int = Field(112, ge=8, le=32_768, description="Longest prompt in tokens; a longer one is refused.")
    merge: bool = Field(
        True,
        description="Merge an adapter into copies of the weights that it touches. false computes it beside them: no copies, but more work per token. 4-bit models are never merged.",
    )


class TrainingLanes(ConfigSection):
    """Lanes that train."""

    lanes: LaneCount = 2
    minutes: Minutes = 30
    deployment: Deployment = "train-adapters/train-adapters"
    device_memory_gb: DeviceMemory = 40
    memory_gb: LaneMemory = 16


class EvaluationLanes(ConfigSection):
    """Lanes that evaluate and test."""

    lanes: LaneCount = 3
    minutes: Minutes = 5
    python: PathText | None = Field(
        None,
        min_length=1,
        description="Interpreter of an environment that has vLLM (/opt/vllm/bin/python, say), on the lanes' machines; read by generation.engine vllm only.",
    )
    deployment: Deployment = "evaluate-genomes/evaluate-genomes"
    device_memory_gb: DeviceMemory = 24
    memory_gb: LaneMemory = 4
    pack: int = Field(
        16,
        ge=1,
        le=256,
        description="Evaluations on this machine whose completions are written in one request, at most, where they differ in light genes only; 1: each alone. Lanes of work-pools evaluate each alone.",
    )


class InfraConfig(ConfigSection):
    """Where jobs run. Changes no result, with two exceptions: a job that exceeds `minutes` of its queue, or runs out of memory, on
    each attempt makes its genome infeasible.
    """

    executor: Literal["inline", "local", "work-pools"] = Field(
        "local",
        description="inline: in this process, one by one, for a debugger; local: processes of this machine; work-pools: lanes on Prefect pools.",
    )
    local_lanes: int = Field(0, ge=0, le=1024, description="Lanes of the local executor together; 0: one per core.")
    training: TrainingLanes = Field(default_factory=TrainingLanes, description="Training jobs.")
    evaluation: EvaluationLanes = Field(default_factory=EvaluationLanes, description="Evaluation and test jobs.")
    linger: float = Field(30, ge=0, le=3600, description="Seconds an idle lane waits for work before it ends.")
    attempts: int = Field(3, ge=1, le=20, description="Times a job is tried when the infrastructure fails.")
    lease: float = Field(
        60, ge=6, le=3600, description="Seconds without a beat after which a lane is lost (work-pools)."
    )
    start: float = Field(
        600,
        ge=10,
        le=36_000,
        description="Seconds from a worker taking a lane (image pull included) to its first beat, after which it counts as lost (executor work-pools).",
    )


class StoreConfig(ConfigSection):
    """Storage of adapters and evaluations."""

    path: PathText = Field(
        "runs/store", min_length=1, description="Directory of the store, the same path for all lanes."
    )
    reuse: Literal["shared", "run"] = Field(
        "shared", description="shared: reuse work of any run; run: only of this run."
    )


class RunConfig(ConfigSection):
    """Everything that decides an evolution."""

    name: str = Field(
        "evolution", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Lower-case name; part of the run id."
    )
    seed: int = Field(0, ge=0, lt=2**53, description="Seed of the run: search, trainings and sampling derive from it.")
    runs: PathText = Field("runs", min_length=1, description="Directory that receives a folder per run.")
    search: SearchConfig = Field(default_factory=SearchConfig, description="The strategy that proposes genomes.")
    genes: GenesConfig = Field(default_factory=GenesConfig, description="Candidates and ranges of the genes.")
    automaton: AutomatonConfig = Field(
        default_factory=AutomatonConfig, description="Cellular automata that seed genomes."
    )
    base_model: BaseModelConfig = Field(default_factory=BaseModelConfig, description="The code model to adapt.")
    problems: ProblemsConfig = Field(default_factory=ProblemsConfig, description="The bugs to repair.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="How an adapter is trained.")
    generation: GenerationConfig = Field(default_factory=GenerationConfig, description="How patches are generated.")
    scoring: ScoringConfig = Field(default_factory=ScoringConfig, description="How patches are scored.")
    infra: InfraConfig = Field(default_factory=InfraConfig, description="Where jobs run.")
    budget: BudgetConfig = Field(default_factory=BudgetConfig, description="Limits on spending.")
    store: StoreConfig = Field(default_factory=StoreConfig, description="Storage of adapters and evaluations.")

    @model_validator(mode="before")
    @classmethod
    def _within_limits(cls, given: Any) -> Any:
        """Parameters of a flow run come as JSON: they are held to the limits of a file (`coral_core.config.yaml_document`)."""
        if found := find_problem(given):
            raise ValueError(f"{dotted(found[0])}: {found[1]}")
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        combinations = math.prod(len(candidates) for _, candidates in self.genes.heavy)
        share, population = self.search.diversity.minimum_unique, self.search.population
        needed = int(share * population)
        if self.search.strategy == "evolution" and combinations < needed:
            raise conflict(
                f"genes.heavy allows {combinations} combinations, but search.diversity.minimum_unique {share} of "
                f"search.population {population} asks for {needed} distinct: add candidates or lower minimum_unique",
                "genes.heavy", "search.diversity.minimum_unique", "search.population",
            )  # fmt: skip
        if self.search.money is not None and not (self.budget.price.training and self.budget.price.evaluation):
            raise conflict(
                f"search.money {self.search.money:g} needs prices: set budget.price.training and budget.price.evaluation to what a "
                "lane costs an hour, or limit search.gpu_seconds instead",
                "search.money",
            )
        return self
