"""The interface of listeners, which are notified of the events of an evolution."""

from typing import Literal

from coral_core.ledger import Standing
from coral_core.runs.progress import Progress
from coral_core.runs.records import GenomeRecord, Outcome


class Listener:
    """Base class of listeners: override the methods of the events of interest; by default all do nothing.

    Methods are called in the event loop of the evolution and must return at once. An exception that a method raises ends
    the evolution.
    """

    def started(self, progress: Progress, start: str) -> None:
        """A session begins; earlier sessions may have worked on the run.

        Args:
            progress: State of the run.
            start: Sentence about the origin of the first population; empty when `search.start_from` is ``nothing``.
        """

    def changed(self, progress: Progress) -> None:
        """Called about every second, and soon after each job, whether `progress` has changed or not."""

    def champion_found(self, champion: GenomeRecord, generation: int, before: float | None) -> None:
        """A generation ended with a new champion. Not called again when a replay finds the same one.

        Args:
            champion: The new champion.
            generation: Number of the generation, from 0.
            before: Fitness of the champion before; None when there was none.
        """

    def paused(self, why: str) -> None:
        """The budget lets no job start; `why` is the reason as a sentence."""

    def resumed(self) -> None:
        """Jobs start again after a pause."""

    def budget_reached(self, percent: Literal[80, 100], standing: Standing) -> None:
        """A share of a limit is spent. Called once per share, day and set of limits, also over restarts.

        Args:
            percent: Share of the limit; 100 also when the rest is too small for a job.
            standing: What is spent, and the limits.
        """

    def ended(self, progress: Progress, outcome: Outcome, error: str) -> None:
        """The session has ended.

        Args:
            progress: State of the run; the last known one when its files cannot be read any more.
            outcome: ``finished``, ``stopped`` or ``failed``.
            error: Class and first line of the error; empty unless the session failed.
        """
