"""What loading a profile costs at a start: modules that are not needed stay out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import sandbox


def modules(code: str, home: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=home,
        env={"HOME": str(home), "PYTHONPATH": str(Path(next(iter(sandbox.__path__))).parent)},
    )
    return set(done.stdout.split())


HEAVY = {
    "asyncio",
    "urllib3",
    "rich",
    "pyroute2",
    "importlib.metadata",
    "platformdirs",
    "jsonschema",
    "subprocess",
} | {
    "argparse",
    "difflib",
    "json",
    "ipaddress",
    "textwrap",
    "socket",
    "pathlib",
    "shutil",
    "tempfile",
    "logging",
}


def test_importing_the_package_imports_nothing(tmp_path: Path) -> None:
    found = modules("import sandbox.profile", tmp_path)
    assert not {name for name in found if name.startswith("sandbox.profile.")}


def test_loading_imports_little(tmp_path: Path) -> None:
    found = modules("from sandbox.profile import load\nload('untrusted')", tmp_path)
    assert not HEAVY & found
    assert not {"sandbox.profile.trust", "sandbox.profile.text", "sandbox.profile.schema", "hashlib"} & found


def test_functions_are_not_hidden_by_modules(tmp_path: Path) -> None:
    code = (
        "import sandbox.profile as p\n"
        "for name in p.__all__: getattr(p, name)\n"
        "assert not any(type(getattr(p, name)) is type(sys) for name in p.__all__)"
    )
    modules(code, tmp_path)
