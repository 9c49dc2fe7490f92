"""Starts the vLLM engine under an interpreter in whose environment CORAL-X is not installed.

Run as a script. It makes this copy of `coral_core` importable by path and nothing beside it: the packages around it belong to
another environment.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def make_importable(folder: Path) -> None:
    """Make the package in `folder` importable, and nothing that lies beside it.

    Args:
        folder: The folder of the package, with __init__.py.
    """
    spec = spec_from_file_location(folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    package = module_from_spec(spec)
    sys.modules[folder.name] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    make_importable(Path(__file__).absolute().parents[1])
    from coral_core.lm.vllm_engine import main

    main()
