"""Says what lasts once, again when it changes, and otherwise every few minutes."""

import logging
import time

REPEAT_SECONDS = 300.0
"""Between two lines that say the same."""
CHANGE_SECONDS = 60.0
"""Between two lines that say the same with another one in between: what goes back and forth must not fill a log."""


class Said:
    """Remembers what was said about each topic.

    Args:
        log: Where warnings go.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: dict[str, str] = {}
        self._when: dict[tuple[str, str], float] = {}

    def warn(self, topic: str, key: str, text: str) -> None:
        """Log `text`, unless what `key` stands for was said of `topic` a moment ago; an empty key: there is nothing to say."""
        if not key:
            if self._last.pop(topic, ""):
                self._log.info("%s: nothing stands in the way any more", topic)
            return
        now, same = time.monotonic(), self._last.get(topic) == key
        since = now - self._when.get((topic, key), -REPEAT_SECONDS)
        self._last[topic] = key
        if since >= (REPEAT_SECONDS if same else CHANGE_SECONDS):
            self._when[topic, key] = now
            self._log.warning("%s", text)
