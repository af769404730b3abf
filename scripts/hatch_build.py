"""Hatchling's build hook: the compiled helper goes into wheels, or into the tree of an editable install.

Nothing is decided here about compilers; see build_helper.py.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_helper


class HelperBuildHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build needs besides hatchling: a compiler from PyPI, only where there is none."""
        return [] if build_helper.find_compiler() else ["ziglang"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        build_data["pure_python"] = False
        # The helper links nothing of the machine, so the wheel depends on the architecture alone.
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
        if version == "editable":
            target = build_helper.in_place(root)
            if not build_helper.is_fresh(root, target):
                build_helper.build(root, target)
            return
        # A wheel is always compiled anew and elsewhere: the tree may be read-only, and what lies
        # in it may be somebody's debug build.
        self.scratch = tempfile.TemporaryDirectory(prefix="sandbox-helper-")
        target = Path(self.scratch.name, "sandbox-helper")
        build_helper.build(root, target)
        # Not in pyproject.toml, since an editable install must see the live configs/ and no copy.
        build_data["force_include"][str(root / "configs")] = "sandbox/_configs"
        build_data["force_include"][str(target)] = "sandbox/_helper/sandbox-helper"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.scratch.cleanup()
