"""Prints the dependencies of pyproject.toml, some left out, for images that do not need all of them."""

import argparse
import re
import tomllib
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", nargs="*", default=[])
    options = parser.parse_args()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        if re.split(r"[<>=!~ \[]", line, maxsplit=1)[0] not in options.without:
            print(line)


if __name__ == "__main__":
    main()
