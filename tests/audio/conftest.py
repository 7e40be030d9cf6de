"""Reference tools: their absence is said aloud here and is an error in CI."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def run_tool(name: str, *args: str, data: bytes) -> bytes:
    """Pipe `data` through sox or ffmpeg."""
    if shutil.which(name) is None:
        message = f"{name} is not installed: the codecs are not checked against it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return subprocess.run([name, *args], input=data, capture_output=True, check=True).stdout
