"""For child processes: end when the parent is gone."""

import os
import threading
import time


def end_with(parent: int) -> None:
    """PDEATHSIG follows the thread that started us, which may end before its process: poll instead, once a second."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
