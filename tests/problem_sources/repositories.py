"""Small git repositories for tests: each commit has files and a date of its own."""

import os
import subprocess
from pathlib import Path

DAY = 86_400
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A. Author",
    "GIT_AUTHOR_EMAIL": "author@example.org",
    "GIT_COMMITTER_NAME": "A. Author",
    "GIT_COMMITTER_EMAIL": "author@example.org",
}


class Builder:
    """Makes a repository commit by commit, one a day from 2020-01-01 on."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        self.days = 0
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main", *options)

    def git(self, *arguments: str, **environment: str) -> str:
        """Output of a git command in the repository."""
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            env=ENVIRONMENT | environment, capture_output=True, check=True, text=True, errors="replace",
        )  # fmt: skip
        return done.stdout.strip()

    def commit(self, message: str, files: dict[str, str | bytes | None] | None = None, day: int | None = None) -> str:
        """Commit files (None: remove it) and return the hash. `day` replaces the day of the author date."""
        for name, content in (files or {}).items():
            target = self.path / name
            if content is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.days += 1
        self.git("add", "--all")
        start = 1_577_836_800
        self.git(
            "commit", "--quiet", "--allow-empty", "--message", message,
            GIT_AUTHOR_DATE=f"{start + DAY * (self.days if day is None else day)} +0000",
            GIT_COMMITTER_DATE=f"{start + DAY * self.days} +0000",
        )  # fmt: skip
        return self.git("rev-parse", "HEAD")
