"""Judges the completions of one evaluation in a thread, while the engine writes the rest."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from coral_core.scoring.boundary import CompletionScorer, Items

PATIENCE = 2.0
"""Seconds that dropped work may go on; an ordinary portion takes less. After that its processes are ended."""


class Judging:
    """Gives completions to a scorer as they come, in a thread of its own. Only one thread may call its methods.

    While a portion is judged, further completions gather and make up the next one: many small portions would cost more.
    An error of the judge does not end the generation; `result` raises it, so that an error of the engine comes first, as
    it would if judging began after it.

    Args:
        scorer: Used by the thread alone until `result` or `drop` has returned.
        prepare: Called in the thread before the first completion comes; gives the executed lines of the references.
    """

    def __init__(self, scorer: CompletionScorer, prepare: Callable[[], list[int]]) -> None:
        self._scorer = scorer
        self._prepare = prepare
        self._waiting: SimpleQueue[tuple[int, Sequence[object]] | None] = SimpleQueue()
        """Completions that wait for the thread; None: no more will come."""
        self._dropped = False
        self._done: Future[tuple[Items, list[int]]] = Future()
        self._thread = threading.Thread(target=self._run, name="judging", daemon=True)
        self._thread.start()

    def take(self, number: int, completions: Sequence[object]) -> None:
        """Hand over the completions of problem `number`. Does not wait."""
        self._waiting.put((number, completions))

    def result(self) -> tuple[Items, list[int]]:
        """Wait until all completions are judged.

        Returns:
            The items, and the executed lines of each reference.

        Raises:
            JudgeError: as `CompletionScorer.add`.
            TimeoutError: as `CompletionScorer.add`.
        """
        self._waiting.put(None)
        return self._done.result()

    def drop(self, end_processes: Callable[[], None]) -> None:
        """End the thread; what it has judged is dropped.

        Args:
            end_processes: Ends what the thread may wait for, judge and text process, if it does not end soon.
        """
        self._dropped = True
        self._waiting.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            end_processes()
            self._thread.join()

    def _run(self) -> None:
        try:
            lines = self._prepare()
            ended = False
            while not ended and not self._dropped:
                portion, ended = self._gathered()
                self._scorer.add(portion)
            if not self._dropped:
                self._done.set_result((self._scorer.items(), lines))
        except BaseException as error:
            self._done.set_exception(error)

    def _gathered(self) -> tuple[dict[int, Sequence[object]], bool]:
        """What has come since the last portion, at least one; and whether no more will come."""
        portion: dict[int, Sequence[object]] = {}
        item = self._waiting.get()
        try:
            while item is not None:
                portion[item[0]] = item[1]
                item = self._waiting.get_nowait()
        except Empty:
            return portion, False
        return portion, True
