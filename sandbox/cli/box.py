"""`sandbox ps`, `inspect`, `logs`, `diff`, `commit`, `rm`: what is kept (`run --name NAME --keep`)."""

from __future__ import annotations

import time
from typing import Any

from sandbox.box import Boxes
from sandbox.cli.common import Parser, UsageError, print_error
from sandbox.errors import ImageError
from sandbox.words import printable

__all__ = ["main"]

_OURS = 125


def main(arguments: list[str]) -> int:
    verbs = {"ps": _ps, "ls": _ps, "rm": _rm, "diff": _diff, "commit": _commit}
    verbs |= {"inspect": _inspect, "logs": _logs}
    word = arguments[0] if arguments else ""
    if word in ("-h", "--help"):
        print(
            "usage: sandbox ps|inspect|logs|diff|commit|rm [options]\n\n"
            "Kept sandboxes: `sandbox run --name NAME --keep`."
        )
        return 0
    if word not in verbs:
        raise UsageError(
            f"box needs a command: {', '.join(verbs)}" if not word else f"unknown command {word!r}"
        )
    return verbs[word](arguments[1:])


def _ps(arguments: list[str]) -> int:
    parser = Parser("ps", "[options]", "The sandboxes that are kept, and whether they run.")
    parser.add_argument("-a", "--all", action="store_true", help="those that don't run, too (always so)")
    parser.add_argument("-q", "--quiet", action="store_true", help="only names")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    options = parser.parse(arguments)
    boxes = Boxes()
    records = boxes.all()
    if options.json:
        import json

        fields = [
            {
                "name": each.name,
                "image": each.reference,
                "manifest": str(each.manifest.digest),
                "driver": each.driver,
            }
            | {"created": each.created, "running": boxes.running(each.name)}
            for each in records
        ]
        print(json.dumps(fields, indent=2))
        return 0
    if options.quiet:
        print("".join(f"{each.name}\n" for each in records), end="")
        return 0
    rows = [("NAME", "IMAGE", "CREATED", "STATUS")]
    for each in records:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.created))
        rows.append(
            (each.name, printable(each.reference), created, "running" if boxes.running(each.name) else "kept")
        )
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _rm(arguments: list[str]) -> int:
    parser = Parser("rm", "[options] NAME...", "Remove kept sandboxes, with what changed in them.")
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("-f", "--force", action="store_true", help="one that is not there is no error")
    options = parser.parse(arguments)
    boxes, failed = Boxes(), False
    for name in options.names:
        try:
            if boxes.exists(name) or not options.force:
                boxes.remove(name)
                print(name)
        except ImageError as error:
            print_error(error)
            failed = True
    return _OURS if failed else 0


def _diff(arguments: list[str]) -> int:
    parser = Parser("diff", "NAME", "What changed in a kept sandbox: A added, C changed, D deleted.")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="the same as JSON, with names as they are")
    options = parser.parse(arguments)
    with Boxes().open(options.name) as box:
        changes = box.diff()
    if options.json:
        import json

        print(json.dumps([each._asdict() for each in changes], indent=2))
        return 0
    for change in changes:
        print(f"{change.kind} {printable(change.path)}")
    return 0


def _inspect(arguments: list[str]) -> int:
    from sandbox.box.log import read

    parser = Parser("inspect", "NAME", "What a kept sandbox is made of, and its network while it runs.")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    options = parser.parse(arguments)
    boxes = Boxes()
    record, path = boxes.look(options.name)
    running, last = boxes.running(record.name), read(path)
    fields: dict[str, Any] = {
        "name": record.name,
        "image": record.reference,
        "manifest": str(record.manifest.digest),
        "driver": record.driver,
        "created": record.created,
        "running": running,
        "net": None,
        "ports": [],
    }
    if last is not None and running:
        fields["net"], fields["ports"] = last.net, [each._asdict() for each in last.ports]
    if options.json:
        import json

        print(json.dumps(fields, indent=2))
        return 0
    net = fields.pop("net") or {}
    fields["created"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created))
    fields["running"] = "yes" if running else "no"
    fields["ports"] = ", ".join(map(str, last.ports)) if last and running else ""
    fields |= {"net": net.get("mode"), "backend": net.get("backend")}
    fields["addresses"] = ", ".join(net.get("addresses", ()))
    for name, value in fields.items():
        if value:
            print(f"{name + ':':<11}{printable(str(value))}")
    return 0


def _logs(arguments: list[str]) -> int:
    from sandbox.box.log import read

    parser = Parser(
        "logs", "NAME", "How the last run in a kept sandbox ended, and what its network policy denied."
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="its whole report, as JSON")
    options = parser.parse(arguments)
    _, path = Boxes().look(options.name)
    last = read(path)
    report = last.report if last else None
    if options.json:
        import json

        print(json.dumps(report))
        return 0
    if report is None:
        print("nothing is told of a run yet" if last is None else "the last run has not ended, or was killed")
        return 0
    verdict = report.get("verdict", "setup failed")
    message = report.get("message") or ""
    print(printable(f"{verdict}: {message}" if message else verdict))
    for each in (report.get("network") or {}).get("denied", ()):
        port = f":{each['port']}" if each["port"] else ""
        times = f", {each['times']} times" if each["times"] > 1 else ""
        print(printable(f"denied {each['name']}{port} ({each['how']}{times})"))
    return 0


def _commit(arguments: list[str]) -> int:
    import json

    from sandbox.cli.image.common import made_options
    from sandbox.image.compose import source_date
    from sandbox.image.instructions import changed
    from sandbox.image.reference import parse_new_name

    parser = Parser(
        "commit",
        "[options] NAME IMAGE",
        "Make what changed in a kept sandbox a layer of a new image. With SOURCE_DATE_EPOCH set, the same\n"
        "changes give the same image. Prints its ID.",
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("image", metavar="IMAGE")
    made_options(parser)
    parser.add_argument("-a", "--author", metavar="NAME", default="", help="who made it")
    parser.add_argument("-q", "--quiet", action="store_true", help="don't print the ID")
    options = parser.parse(arguments)
    reference = parse_new_name(options.image)
    said = {"comment": options.message, "author": options.author}
    step = {key: text for key, text in said.items() if text}
    with Boxes().open(options.name) as box:
        before = json.loads(box.image.config.raw).get("config") or {}
        config = changed(before, options.change)
        image = box.commit(reference.key, step=step, config=config, created=source_date())
    if not options.quiet:
        print(image.id)
    return 0
