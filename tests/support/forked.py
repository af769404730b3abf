"""pytest in one tree after another, by forks of a process that has imported it.

To import it takes longer than to run a test or two. Of what a tree has itself nothing is imported before.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Forked"]

#: what nearly every test imports
COMMON = (
    "hypothesis hypothesis.strategies _hypothesis_pytestplugin platformdirs.pytest_plugin pdb urllib3 tomli "
    "tomllib ssl http.server urllib.request tarfile zipfile ctypes resource subprocess tempfile threading"
)


class Forked:
    """The process; it is started at the first `run`, with *environ* besides, and ends with its caller.

    `run(tree, arguments, output, seconds)` runs pytest with these arguments in *tree*, and what it says goes
    to the file *output*; returns its exit status.

    Raises:
        TimeoutError: it took longer than so many seconds. It may still run; the next is by another process.
    """

    def __init__(self, **environ: str) -> None:
        self._environ = environ
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        if self._server is None:
            environ = {
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PYTEST_", "PYTHONPATH"))
            }
            pipe = subprocess.PIPE
            command = [sys.executable, "-B", "-P", __file__]
            self._server = subprocess.Popen(
                command, env=environ | self._environ, cwd="/", stdin=pipe, stdout=pipe, bufsize=0
            )
        return self._server

    def run(self, tree: Path, arguments: Sequence[str], output: Path, seconds: float) -> int:
        server = self.start()
        assert server.stdin and server.stdout
        request = {"tree": str(tree), "arguments": list(arguments), "output": str(output)}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        if not select.select([server.stdout], [], [], seconds)[0]:
            self.close()
            raise TimeoutError(f"pytest in {tree} takes longer than {seconds} s")
        return int(server.stdout.readline())

    def close(self) -> None:
        if server := self._server:
            self._server = None
            with server:
                server.kill()


def _become_pytest(request: dict[str, str]) -> int:
    """As `python -B -m pytest` in the tree would be."""
    os.chdir(request["tree"])
    with open(request["output"], "wb") as output, open(os.devnull, "rb") as nothing:
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source.fileno(), target)
    os.environ["PYTHONPATH"] = request["tree"]
    sys.path.insert(0, request["tree"])
    sys.argv = ["pytest", *request["arguments"]]
    import pytest

    return int(pytest.main(list(request["arguments"])))


def _serve() -> int:
    import gc
    import importlib

    import _pytest.config

    for name in ("pytest", *(f"_pytest.{each}" for each in _pytest.config.default_plugins), *COMMON.split()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # pytest collects garbage five times at its end
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            return _become_pytest(json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, b"%d\n" % status)
    return 0


if __name__ == "__main__":
    sys.exit(_serve())
