"""Defences of builds, taken away one at a time: see tests/security/mutants.py."""

from __future__ import annotations

from tests.security.mutants import one

__all__ = ["MUTANTS"]

BUILD = "sandbox/image/build/"
LAYER = "sandbox/image/layer/"
HERE = "tests/image/build/"

MUTANTS = [
    one(
        "no absolute link leads out of the context",
        LAYER + "select.py",
        '            if where == "the context":',
        '            if where == "the kontext":',
        HERE + "test_copy.py",
        "test_refused and out",
    ),
    one(
        "no relative link leads out of the context",
        LAYER + "select.py",
        "            if not shown.path:\n",
        "            if not shown.path and links > 99:\n",
        HERE + "test_copy.py",
        "test_refused and up",
    ),
    one(
        "what is ignored is not copied",
        BUILD + "context.py",
        "                ignore=self._ignore,\n",
        "",
        HERE + "test_copy.py",
        "test_what_is_ignored",
    ),
    one(
        "what was hashed is what is copied",
        LAYER + "select.py",
        "    if size or (known and seen.hexdigest() != known):",
        "    if size:",
        HERE + "test_copy.py",
        "changes_meanwhile",
    ),
    one(
        "a file is no deletion",
        LAYER + "placing.py",
        """        if any(part.startswith(WHITEOUT) for part in path):
            raise LayerError(f"no layer can have a file named {printable(b'/'.join(path))}")
        if item.kind""",
        """        if item.kind""",
        HERE + "test_copy.py",
        "test_refused and wh",
    ),
    one(
        "no devices from archives",
        LAYER + "placing.py",
        '        if item.kind in ("char", "block"):',
        '        if item.kind in ("charr", "blockk"):',
        HERE + "test_copy.py",
        "test_refused and device",
    ),
    one(
        "a secret's mount point is not kept",
        BUILD + "layers.py",
        '"ours": list(ours)',
        '"ours": []',
        HERE + "test_run.py",
        "test_secrets",
    ),
    one(
        "a command's arguments are part of its key",
        BUILD + "stage.py",
        '            "args": args,\n',
        "",
        HERE + "test_cache.py",
        "argument_counts",
    ),
    one(
        "a step with --network=none has none",
        BUILD + "running.py",
        '        if command.network == "none" and net.mode != "none":',
        '        if command.network == "nine" and net.mode != "none":',
        HERE + "test_run.py",
        "test_a_step_without",
    ),
    one(
        "variables do not explode",
        BUILD + "template.py",
        "        if length > longest:",
        "        if length < 0:",
        HERE + "test_template.py",
        "explode",
    ),
    one(
        "layers of builds are not garbage",
        "sandbox/image/garbage.py",
        "            needed.blobs.update(built.blobs)\n",
        "",
        HERE + "test_cache.py",
        "kept_until",
    ),
    one(
        "another file of the same time and size is another",
        BUILD + "context.py",
        "status.st_mtime_ns, status.st_ctime_ns]",
        "status.st_mtime_ns]",
        HERE + "test_cache.py",
        "remembered",
    ),
    one(
        "what a crash left goes",
        BUILD + "engine.py",
        "            self.store.unpacked.recover()\n",
        "",
        HERE + "test_run.py",
        "killed_build",
    ),
    one(
        "--disk is not promised where nothing holds it",
        "sandbox/cli/image/build.py",
        "    if profile.limits.disk is not None:",
        "    if profile.limits.disk == -1:",
        "tests/cli/image/test_build.py",
        "test_mistakes and disk",
    ),
]
