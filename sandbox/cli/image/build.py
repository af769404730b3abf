"""`sandbox image build`, which is `sandbox build`, too."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sandbox.cli.common import Parser, UsageError, print_error
from sandbox.cli.image.common import registry_options, store
from sandbox.errors import BuildError, ImageError, RequirementError
from sandbox.words import quote

if TYPE_CHECKING:
    from sandbox.image.build.commands import Runner
    from sandbox.image.build.context import Context
    from sandbox.image.build.engine import Built, FindImage, Settings
    from sandbox.image.build.report import Report
    from sandbox.image.build.steps import Recipe
    from sandbox.image.store import Image, Store
    from sandbox.profile.model import Profile

__all__ = ["build"]

#: what a build file is called where none is named
FILES = ("Containerfile", "Dockerfile", "build.toml")
_IGNORE = (".containerignore", ".dockerignore")
_MAX_SECRET = 1 << 20  # bytes
_POLICIES = ("always", "missing", "never", "true", "false")
#: exit status of a build of which a step failed, as docker's
FAILED = 1

_DESCRIPTION = """\
Make an image by the steps of a Containerfile (or Dockerfile), or of a TOML file. CONTEXT is the directory
that COPY takes files from (default: this one); its .dockerignore says what to leave out. Prints the ID.

Each step runs in a sandbox of its own, with no network unless --net gives it one. What was built before is
taken again, as long as nothing that it depends on has changed: --explain-cache says what did.
"""
_EPILOG = """\
examples:
  sandbox build -t tool .
  sandbox build -t tool:1.2 -t tool:latest --build-arg VERSION=1.2 --target release .
  sandbox build --secret id=token,src=~/.token --explain-cache -f ci/Containerfile .
  sandbox build -f build.toml -t tool .

A TOML file says the same without escapes and continued lines:

  [build]
  from = "debian:12"
  args = { VERSION = "1.2" }
  steps = [
    { copy = ["src/", "Makefile"], to = "/src/" },
    { workdir = "/src" },
    { run = "make VERSION=$VERSION", mounts = [{ type = "cache", target = "/root/.cache" }] },
    { write = "built from TOML\\n", to = "/etc/motd" },
  ]
  cmd = ["/src/tool"]

Exit status: 0; 1 when a step failed; 125 when sandbox did, or a file is wrong.
"""


def build(arguments: list[str]) -> int:
    options = _parser().parse(arguments)
    if options.context is None:
        options.context = "."
        if options.pull not in _POLICIES:  # `--pull .`, as docker has it
            options.context, options.pull = options.pull, "always"
    recipe, context_path, file = _read(options)
    here = store()
    from sandbox.image.build.context import Context
    from sandbox.image.build.records import Records

    cache = Records(here.path).digests
    if context_path is None:
        return _build(here, recipe, None, file, options)
    with Context(context_path, cache, _ignore_files(context_path, file)) as context:
        return _build(here, recipe, context, file, options)


def _parser() -> Parser:
    parser = Parser("image build", "[options] [CONTEXT]", _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    add("context", nargs="?", metavar="CONTEXT", help=argparse.SUPPRESS)
    add("-f", "--file", metavar="FILE", help=f"the steps; -: stdin (default: {', '.join(FILES)} in CONTEXT)")
    add("-t", "--tag", action="append", default=[], metavar="NAME", help="what to call it; may be repeated")
    add("--target", default="", metavar="STAGE", help="the stage to build (default: the last)")
    add(
        "--build-arg",
        action="append",
        default=[],
        metavar="K[=V]",
        help="a value for an ARG; without =V that of the environment",
    )
    add("--label", action="append", default=[], metavar="K=V", help="a label for the image")
    add(
        "--secret",
        action="append",
        default=[],
        metavar="id=ID[,src=FILE|,env=NAME]",
        help="what RUN --mount=type=secret may ask for; it is in no layer and no history",
    )
    add("--no-cache", action="store_true", help="do every step, whatever was built before")
    add("--explain-cache", action="store_true", help="say why each step that runs was not taken from before")
    add("--pull", metavar="POLICY", nargs="?", const="always", default="missing",
        help="always, missing (default) or never: when to ask registries for images")  # fmt: skip
    add("--platform", metavar="OS/ARCH", default="", help="accepted when it is this machine's")
    add("--iidfile", metavar="FILE", help="write the image's ID there")
    add("--progress", metavar="auto|plain|quiet", default="auto", help="quiet: as -q")
    for habit in ("--rm", "--force-rm", "--compress", "--load"):
        add(habit, action="store_true", dest="_habit", help=argparse.SUPPRESS)
    add("--debug-shell", action="store_true", help="a shell in what a failed step left, in a terminal")
    registry_options(parser)
    profile = "a profile, for its limits and network (default: build); its mounts and variables don't count"
    add("-p", "--profile", metavar="PROFILE", default="build", help=profile)
    add("--network", dest="profile_net", action="append", metavar="MODE", help=argparse.SUPPRESS)
    from sandbox.profile import add_options

    add_options(parser, ("limits", "net"))
    return parser


# --- what to build ----------------------------------------------------------------------------------------


def _read(options: argparse.Namespace) -> tuple[Recipe, str | None, str]:
    """The recipe, the context's path (None: there is none) and the file's."""
    context, file = options.context, options.file
    if context == "-":
        if file not in (None, "-"):
            raise UsageError("CONTEXT - is a build file from stdin: leave -f out", "image build")
        return _parse("stdin", _from_stdin()), None, ""
    if "://" in context or context.startswith("git@"):
        raise ImageError(
            f"the context {context} is not a directory here, and contexts are not fetched",
            "clone or download it, and name the directory",
        )
    if not os.path.isdir(context):
        what = "is no directory" if os.path.exists(context) else "is not there"
        raise ImageError(f"the context {context} {what}", "name the directory that COPY takes files from")
    if file == "-":
        return _parse("stdin", _from_stdin()), context, ""
    if file is None:
        found = [name for name in FILES if os.path.isfile(os.path.join(context, name))]
        if not found:
            raise ImageError(
                f"there is no {', '.join(FILES[:-1])} or {FILES[-1]} in {os.path.abspath(context)}",
                "name the file with the steps: -f FILE",
            )
        file = os.path.join(context, found[0]) if context != "." else found[0]
    try:
        with open(file, "rb") as opened:
            from sandbox.image.build.containerfile import MOST

            data = opened.read(MOST + 1)
    except OSError as error:
        mend = f"ls -ld {quote(file)}    or name another file with the steps: -f FILE"
        raise ImageError(f"cannot read {file}: {error.strerror}", mend) from error
    return _parse(file, data), context, os.path.realpath(file)


def _from_stdin() -> bytes:
    from sandbox.image.build.containerfile import MOST

    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("the build file is to come from stdin, which is a terminal", "image build")
    return sys.stdin.buffer.read(MOST + 1)


def _parse(name: str, data: bytes) -> Recipe:
    """TOML by the file's name, or because it begins with its table: no instruction does."""
    if name.endswith(".toml") or (name == "stdin" and data.lstrip().startswith(b"[build]")):
        from sandbox.image.build import tomlfile

        return tomlfile.parse(name, data)
    from sandbox.image.build import instructions

    return instructions.parse(name, data)


def _ignore_files(context: str, file: str) -> Sequence[str]:
    """The build file's own ignore file goes before the context's."""
    inside = os.path.relpath(file, os.path.realpath(context)) if file else ".."
    own = [] if inside.startswith("..") else [f"{inside}{name}" for name in _IGNORE]
    return (*own, *_IGNORE)


# --- building ---------------------------------------------------------------------------------------------


def _build(
    here: Store, recipe: Recipe, context: Context | None, file: str, options: argparse.Namespace
) -> int:
    from sandbox.image.build.engine import Builder, Means
    from sandbox.image.reference import parse_new_name

    names = [parse_new_name(name) for name in options.tag]
    profile, report = _profile(options), _report(options)
    settings = _settings(options, profile.net.mode)
    recipe = _labelled(recipe, options.label, settings.target)
    builder = Builder(
        here,
        recipe,
        context,
        settings,
        Means(_finder(here, options), _runner(profile, options), report),
        file,
    )
    try:
        with here.hold():
            built = builder.build()
            keys = [name.key for name in names] or [f"localhost/build:{built.image.id.hex[:12]}"]
            for key in keys:
                here.set_ref(key, built.image.descriptor)
    except BuildError as error:
        if not error.status:
            raise
        print_error(error)
        return FAILED
    _tell(built, [name.familiar for name in names] or keys, options, report)
    return 0


def _tell(built: Built, names: Sequence[str], options: argparse.Namespace, report: Report) -> None:
    if options.iidfile:
        try:
            with open(options.iidfile, "w") as out:
                out.write(str(built.image.id))
        except OSError as error:
            mend = f"ls -ld {quote(os.path.dirname(options.iidfile) or '.')}    or name another file"
            raise ImageError(f"cannot write {options.iidfile}: {error.strerror}", mend) from error
    report.note(f"built {', '.join(names)}: {built.run} steps run, {built.cached} from the cache")
    print(built.image.id)


def _settings(options: argparse.Namespace, network: str) -> Settings:
    from sandbox.image.build.engine import Settings
    from sandbox.image.compose import source_date
    from sandbox.image.platform import accepts, host_platform, parse_platform

    if options.platform and not accepts(host_platform(), parse_platform(options.platform)):
        raise ImageError(
            f"images for {options.platform} can't be built here: this machine runs {host_platform()}",
            "build on a machine of that kind",
        )
    if options.pull not in _POLICIES:
        raise UsageError("--pull is always, missing or never", "image build")
    return Settings(
        target=options.target,
        args=dict(_assignment(each) for each in options.build_arg if "=" in each or each in os.environ),
        secrets=dict(_secret(each) for each in options.secret),
        cache=not options.no_cache,
        epoch=source_date(),
        network=network,
    )


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return name, value if equals else os.environ[name]


def _secret(text: str) -> tuple[str, bytes]:
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    unknown = set(fields) - {"id", "src", "source", "env", "type"}
    if "id" not in fields or unknown:
        raise UsageError(f"--secret {text!r}: it is id=ID,src=FILE or id=ID,env=NAME", "image build")
    name = fields["id"]
    path = fields.get("src") or fields.get("source") or ""
    variable = fields.get("env") or ("" if path else name)
    if not path:
        if variable in os.environ:
            return name, os.fsencode(os.environ[variable])
        if "env" in fields:
            mend = f"export {variable}=...    or --secret id={name},src=FILE"
            raise ImageError(f"the secret {name}: there is no variable {variable}", mend)
        path = name
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_SECRET + 1)
    except OSError as error:
        mend = f"ls -ld {quote(path)}    or name another file: --secret id={name},src=FILE"
        raise ImageError(f"the secret {name}: cannot read {path}: {error.strerror}", mend) from error
    if len(data) > _MAX_SECRET:
        mend = "give what is larger as a file: --mount=type=bind"
        raise ImageError(f"the secret {name}: {path} has more than 1 MiB", mend)
    return name, data


def _labelled(recipe: Recipe, labels: Sequence[str], target: str) -> Recipe:
    """With a last step for --label, in every stage: it counts only in the one that is wanted."""
    if not labels:
        return recipe
    from dataclasses import replace

    from sandbox.image.build import steps
    from sandbox.image.build.place import Place
    from sandbox.image.build.template import literal

    pairs = tuple(
        (literal(name), literal(value)) for name, _, value in (each.partition("=") for each in labels)
    )
    step = steps.Label(Place("--label", "", 0, 0), f"LABEL {' '.join(labels)}", pairs)
    wanted = {target.lower()} if target else {recipe.stages[-1].name}
    stages = tuple(
        replace(stage, steps=(*stage.steps, step))
        if stage.name in wanted or (target and target == str(number))
        else stage
        for number, stage in enumerate(recipe.stages)
    )
    return replace(recipe, stages=stages)


def _report(options: argparse.Namespace) -> Report:
    from sandbox.image.build.report import Plain, Silent

    if options.progress not in ("auto", "plain", "tty", "quiet"):
        raise UsageError("--progress is auto, plain or quiet", "image build")
    if sys.stderr is None or ((options.quiet or options.progress == "quiet") and not options.explain_cache):
        return Silent()
    return Plain(sys.stderr, explain=options.explain_cache)


def _finder(here: Store, options: argparse.Namespace) -> FindImage:
    """Images as they are here, or from their registries."""

    def find(name: str) -> Image:
        from sandbox.image import listing
        from sandbox.image.reference import parse_reference

        if options.pull not in ("always", "true"):
            try:
                found = listing.lookup(here, name).image
                if found is not None:
                    return found
            except ImageError:
                if options.pull == "never":
                    raise
        from sandbox.cli.image.common import reached, transfer_options
        from sandbox.image import pull as pulling

        reference = parse_reference(name)
        transfer = transfer_options(options)
        with transfer.progress:
            transfer.progress.say(f"pulling {reference.familiar}")
            pulled = reached(
                reference,
                transfer,
                options.tls_verify,
                lambda to: pulling.pull(reference, here, None, to),
            )
        return here.image(pulled.descriptor, reference.familiar)

    return find


def _profile(options: argparse.Namespace) -> Profile:
    """What steps are held by: it is read only when one is executed, but must be right in any case."""
    from sandbox.profile import load
    from sandbox.profile.options import overrides_from

    profile = load(options.profile, overrides_from(options))
    if profile.limits.disk is not None:
        from sandbox.plan.invocation import at, origin_of
        from sandbox.plan.limits import without_disk

        where = at(origin_of(profile, "limits.disk"))
        raise RequirementError(
            f"{where}limits.disk can't be held for a build: what a step writes "
            "becomes a layer on the disk, where nobody but root can set a quota",
            f"{without_disk(profile)}; what bounds all layers is a file system of their own: XDG_DATA_HOME",
        )
    return profile


def _runner(profile: Profile, options: argparse.Namespace) -> Runner:
    from sandbox.image.build.running import Sandboxed
    from sandbox.image.compose import source_date

    return Sandboxed(profile, source_date(), debug=options.debug_shell)
