"""Type-checks the Python of the pages and of examples/ as `make types` does the packages: ``python -m tests.docs.python_blocks``.

The blocks of a page become one module, in their order: a page is read from its top. What a block needs at run time (lanes, a
model) is left to slow tests; a function that was renamed or takes other arguments is found here.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LENIENT = ("--allow-untyped-defs", "--disable-error-code", "union-attr")
"""A page leaves out annotations, and what to do where there is no champion."""


def python_of(page: str) -> str:
    r"""The blocks of a page that are not inside a list or another block, one after the other.

    mypy knows no attributes of functions, so that the version of an objective is not checked.

    >>> python_of("text\n```python\na = 1\n```\nmore\n```python\nf.version = '1'\n```\n")
    "a = 1\n\nf.version = '1'  # type: ignore[attr-defined]\n"
    """
    text = "\n".join(BLOCK.findall(page))
    return re.sub(r"^\w+\.version = .*", r"\g<0>  # type: ignore[attr-defined]", text, flags=re.MULTILINE)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        for page in PAGES:
            if code := python_of(page.read_text("utf-8")):
                name = "page_" + "_".join(page.relative_to(ROOT).with_suffix("").parts).lower().replace("-", "_")
                Path(folder, f"{name}.py").write_text(code, "utf-8")
        files = [*sorted(Path(folder).iterdir()), *sorted((ROOT / "examples").glob("*.py"))]
        command = [sys.executable, "-m", "mypy", *LENIENT, *map(str, files)]
        environment = os.environ | {"MYPYPATH": str(ROOT / "examples" / "plug_in")}
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
