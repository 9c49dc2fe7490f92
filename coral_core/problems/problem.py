"""A problem: a buggy function, its reference, and recorded cases that tell them apart.

Cases hold plain data only: arguments and expected outcomes are in the closed value language of
`coral_core.problems.values` (JSON with tags for tuples, sets, floats without a JSON form, ...). Only `buggy` and
`reference` are code.
"""

from keyword import iskeyword
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from coral_core.config.tree import MadeBugClass
from coral_core.digest import digest
from coral_core.errors import ProblemError
from coral_core.frozen import Frozen
from coral_core.problems.values import FIELDS, ValueOutside, decode_call, encode

BugClass = Literal["none", MadeBugClass, "unknown"]
Split = Literal["training", "fitness", "monitor", "held_out"]
Difficulty = Literal["easy", "medium", "hard"]


def difficulty_of(failing: float) -> Difficulty:
    """Difficulty of a bug by how many cases detect it: a bug that few cases detect is hard.

    Args:
        failing: Share of the cases that fail, in [0, 1].

    Example:
        >>> difficulty_of(0.9), difficulty_of(0.5), difficulty_of(0.1)
        ('easy', 'medium', 'hard')
    """
    return "easy" if failing > 0.75 else "medium" if failing > 0.3 else "hard"


class Case(Frozen):
    """One recorded call of the reference.

    `coral_core.judge.oracle` defines the comparison. Both tolerances apply to each float separately; the larger one counts.
    Without a tolerance, floats are compared exactly.

    >>> case = Case(arguments=[["l", [3, 1]]], value=None, mutated=[["l", [1, 3]]])  # sorts its list in place
    >>> case.check()
    """

    arguments: tuple[Any, ...] = Field(description="Encoded positional arguments (problems.values.encode).")
    keywords: dict[str, Any] = Field(default_factory=dict, description="Encoded keyword arguments by name.")
    value: Any = Field(default=None, description="Encoded return value, when `exception` is None.")
    exception: str | None = Field(default=None, description="Name of the exception class the reference raised.")
    mutated: tuple[Any, ...] | None = Field(
        default=None,
        description="Encoded arguments after the call, also one that raised: positional ones, then keyword ones in the order of their names. None: not compared.",
    )
    tolerance: float | None = Field(default=None, ge=0, description="Absolute tolerance of each float.")
    relative_tolerance: float | None = Field(
        default=None, ge=0, lt=1, description="Tolerance of each float as a share of the reference's."
    )
    slow: bool = Field(default=False, description="Judged with the slow budget (scoring.judge.slow).")
    nodes: tuple[Any, ...] = Field(
        default=(), description="Rows of the nodes that the arguments hold (problems.values.encode_arguments)."
    )
    nodes_after: tuple[Any, ...] = Field(
        default=(), description="Rows that `value` and `mutated` refer to; None for a row that is not compared."
    )

    @classmethod
    def of(
        cls,
        *arguments: Any,
        value: Any = None,
        exception: str | None = None,
        tolerance: float | None = None,
        relative_tolerance: float | None = None,
    ) -> Self:
        """A case from plain Python values, which are encoded here; what the call does to its arguments is not compared.

        Args:
            arguments: Positional arguments of the call.
            value: What the reference returns.
            exception: Name of the exception class that the reference raises instead.
            tolerance: Absolute tolerance of each float.
            relative_tolerance: Tolerance of each float as a share of the reference's.

        Raises:
            ValueOutside: a value is not in the value language.

        >>> Case.of([3, 1], value=(1, 3)).value
        ['t', [1, 3]]
        """
        return cls(
            arguments=tuple(encode(argument) for argument in arguments),
            value=encode(value),
            exception=exception,
            tolerance=tolerance,
            relative_tolerance=relative_tolerance,
        )

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without fields that were added later where they are unset, so that problems keep the digests they had before."""
        data: dict[str, Any] = handler(self)
        if self.relative_tolerance is None:
            data.pop("relative_tolerance", None)
        if not self.keywords:
            data.pop("keywords", None)
        return data

    def given(self) -> tuple[Any, ...]:
        """All encoded arguments in the order of `mutated`: positional ones, then keyword ones in the order of their names."""
        return (*self.arguments, *(self.keywords[name] for name in sorted(self.keywords)))

    def check(self) -> None:
        """Check that the judge can rebuild and compare the case.

        Raises:
            ValueOutside: a value is not in the value language, or the fields do not fit each other.
        """
        for name in self.keywords:
            if not name.isidentifier() or iskeyword(name):
                raise ValueOutside(f"{name[:60]!r} is no name of a keyword argument")
        given = self.given()
        _, nodes = decode_call(given, self.nodes)
        if self.mutated is not None:
            if len(self.mutated) != len(given):
                raise ValueOutside(f"mutated has {len(self.mutated)} values for {len(given)} arguments")
            if len(self.nodes_after) < len(nodes):
                raise ValueOutside(
                    f"mutated is compared, so nodes_after needs a row for each of the {len(nodes)} nodes"
                )
        for number, row in enumerate(self.nodes_after):
            if row is None and (number >= len(nodes) or self.mutated is not None):
                raise ValueOutside(f"row {number} of nodes_after is null, but it is compared")
        rows = [[None] * len(FIELDS) if row is None else row for row in self.nodes_after or self.nodes]
        decode_call([self.value, *(self.mutated or ())], rows)


class Problem(Frozen):
    """A function to repair; or, with bug class `none`, a right function that must keep its behaviour.

    See `coral_core.problems` for an example.
    """

    problem_id: str = Field(description="Unique, e.g. builtin/clamp-range/0042.")
    source: str = Field("given", description="builtin, quixbugs, jsonl, package, git/ORIGIN or a plug-in's name.")
    family: str = Field("", description="Functions of one family solve variants of one task.")
    variant: str = Field("", description="Which structural variant of the family.")
    entry_point: str = Field(description="Name of the function that the cases call.")
    bug_class: BugClass = "unknown"
    difficulty: Difficulty = "medium"
    buggy: str = Field(
        description="Source text the model sees, `setup` included. Equal to `reference` when bug_class is `none`."
    )
    reference: str = Field(description="Source text of a right answer; never enters a patch's process.")
    setup: str = Field(
        "", description="Code that runs before a patch (imports, constants, helpers): a patch need not repeat it."
    )
    cases: tuple[Case, ...] = Field(min_length=1)
    excluded: tuple[str, ...] = Field((), description="Cases of the source that are left out, by name, and why.")

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `setup` where there is none, as `Case`."""
        data: dict[str, Any] = handler(self)
        if not self.setup:
            data.pop("setup", None)
        return data

    @property
    def retention(self) -> bool:
        """True for a function that is already right: the model must leave it right."""
        return self.bug_class == "none"

    def check(self) -> None:
        """Check that every case can be rebuilt and compared.

        Raises:
            ProblemError: the values of a case are not encoded.
        """
        for number, case in enumerate(self.cases):
            try:
                case.check()
            except ValueOutside as error:
                raise ProblemError(
                    f"problem {self.problem_id}: case {number} is not in the value language ({error})",
                    remedy="Encode its values: Case.of(...) does it for plain ones.",
                ) from None

    def digest(self) -> str:
        """Digest of all fields: 64 hexadecimal digits."""
        return digest(self.model_dump(mode="json"))


class RepairPair(Frozen):
    """One training example: buggy text in, fixed text out (equal for an echo pair)."""

    buggy: str
    fixed: str
    family: str
    bug_class: BugClass


class ProblemSet(Frozen):
    """The problems of a run, split four ways: training pairs, fitness, monitor, held-out."""

    source: str
    pairs: tuple[RepairPair, ...] = Field(description="Adapter training data.")
    fitness: tuple[Problem, ...]
    monitor: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    benchmark: bool = Field(
        False, description="A public benchmark: its answers are not trained on, near-duplicates are leaks too."
    )
    answers_of: str = Field("", description="The public benchmark whose own answers are among the pairs, if one is.")
    notes: tuple[str, ...] = Field((), description="What the source states about its splits; shown in the report.")

    def split(self, name: Split) -> tuple[Problem, ...]:
        """The problems of one split.

        Args:
            name: fitness, monitor or held_out.

        Raises:
            KeyError: for training, which holds pairs.
        """
        if name == "training":
            raise KeyError("the training split holds pairs, not problems: use `pairs`")
        problems: tuple[Problem, ...] = getattr(self, name)
        return problems
