"""The command as its users meet it, with right and wrong input."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.cli import fast
from sandbox.cli.report import make_ready

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    directory.chmod(0o777)  # root's commands are not root
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(params=["miss", "hit"])
def run(request: pytest.FixtureRequest, sandbox_cmd: Command, tmp_home: Path) -> Command:
    """`sandbox run ARGUMENTS`, without and with its plan in the cache: both must do the same."""
    plans = tmp_home / ".cache" / "sandbox" / "plans"

    def call(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        if request.param == "miss":
            return sandbox_cmd("run", *words, **options)
        sandbox_cmd("run", *words, **options)
        before = {path.name: path.stat().st_mtime_ns for path in plans.iterdir()}
        done = sandbox_cmd("run", *words, **options)
        assert {path.name: path.stat().st_mtime_ns for path in plans.iterdir()} == before
        return done

    return call


# --- run -------------------------------------------------------------------------------------------


def test_input_and_output_pass_untouched(run: Command) -> None:
    done: Any = run("cat", input=b"one\r\n\x00two\xff", text=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"one\r\n\x00two\xff", b"", 0)


def test_streams_stay_apart(run: Command) -> None:
    done = run("--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 42"], 42, ""),
        (["sh", "-c", "kill -TERM $$"], 143, ""),
        (["--timeout", "200ms", "sleep", "60"], 124, "sandbox: killed: timeout 200ms"),
        (["--output=10", "yes"], 137, "sandbox: killed: output limit 10"),
        (["no-such-program"], 127, "sandbox: no-such-program: not found"),
        (["/etc/passwd"], 126, "sandbox: /etc/passwd is not executable"),
        (["-q", "--timeout", "200ms", "sleep", "60"], 124, ""),
    ],
)
def test_exit_status_and_message(run: Command, words: list[str], status: int, message: str) -> None:
    done = run(*words)
    assert done.returncode == status
    assert done.stderr.startswith(message)
    assert bool(done.stderr) == bool(message)


def test_what_follows_the_options_is_the_commands(run: Command, here: Path) -> None:
    (here / "--bind").write_text("#!/bin/sh\necho ran $*\n")
    (here / "--bind").chmod(0o755)
    path = "/usr/bin:/bin"
    assert run("-e", f"PATH={here}:{path}", "--", "--bind", "-p", "x").stdout == "ran -p x\n"
    assert run("-e", "A=-x", "-it", "--rm", "sh", "-c", "echo $A $0 $1", "--", "-v").stdout == "-x -- -v\n"


def test_a_profiles_own_command(run: Command, here: Path) -> None:
    (here / "p.toml").write_text('extends = "default"\ncommand = ["echo", "mine"]\n')
    assert run("-p", "./p.toml").stdout == "mine\n"
    assert run("-p", "./p.toml", "--").stdout == "mine\n"
    assert run("-p", "./p.toml", "echo", "yours").stdout == "yours\n"


def test_the_callers_environment_and_descriptors_stay_outside(run: Command) -> None:
    with open("/etc/passwd") as extra:
        done = run("sh", "-c", "env; ls /proc/self/fd", env={"SECRET": "x"}, pass_fds=[extra.fileno()])
    lines = done.stdout.split()
    assert lines[-4:] == ["0", "1", "2", "3"]
    assert not [line for line in lines if "SECRET" in line]


def test_kept_variables_are_the_callers(run: Command, tmp_home: Path) -> None:
    assert (
        run("-e", "TOKEN", "sh", "-c", "echo $TOKEN", env={"TOKEN": "hidden-in-ram"}).stdout
        == "hidden-in-ram\n"
    )
    for path in (tmp_home / ".cache").rglob("*"):
        assert path.is_dir() or b"hidden-in-ram" not in path.read_bytes()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors(run: Command, here: Path, closed: str) -> None:
    # The command's own descriptors must not be ours (the plan), whichever the caller closed.
    words = ["sh", "-c", f"ls -l /proc/$$/fd > {here}/fds; exit 4"]
    command = [sys.executable, "-m", "sandbox", "run", *words]
    shell = f"{shlex.join(command)} {closed}"
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    run("true")  # makes or uses the plan
    done = subprocess.run(["sh", "-c", shell], env=environ, timeout=60)
    assert done.returncode == 4
    assert "memfd" not in (here / "fds").read_text()


# --- the report ------------------------------------------------------------------------------------


def test_report_to_a_file(run: Command, here: Path) -> None:
    done = run("--report", "verdict.json", "--timeout=200ms", "sleep", "60")
    assert done.returncode == 124
    lines = (here / "verdict.json").read_text().splitlines()
    assert len(lines) == 1
    report = json.loads(lines[0])
    assert (report["verdict"], report["limit"]["name"]) == ("timeout", "timeout")


def test_report_to_a_descriptor(run: Command) -> None:
    read, write = os.pipe()
    with open(read) as file:
        run("--report", f"fd:{write}", "sh", "-c", "exit 5", pass_fds=[write])
        os.close(write)
        assert {json.loads(line)["exit_code"] for line in file} == {5}


def test_the_command_can_not_replace_its_report(run: Command, here: Path) -> None:
    script = (
        "echo forged > r.json; rm -f r.json; mv r.json x; ln -sf y r.json; mv ../work ../else; touch seen"
    )
    run("--report", "r.json", "sh", "-c", script)
    assert json.loads((here / "r.json").read_text())["event"] == "result"
    assert (here / "seen").exists()
    assert (here / "seen").exists()


@pytest.mark.parametrize("spelling", ["fd:{}", "/dev/fd/{}", "/proc/self/fd/{}"])
def test_the_command_can_not_replace_the_file_behind_a_descriptor(
    run: Command, here: Path, spelling: str
) -> None:
    """As of `3> r.json`; a plan in the cache that protects another file, or none, is not for this one."""
    script = "echo forged > r.json; rm -f r.json; mv r.json x; ls seen"
    (here / "seen").touch()
    for name in (os.devnull, "other.json", "r.json"):
        with open(here / name, "w") as file:
            number = fcntl.fcntl(file, fcntl.F_DUPFD, 50)  # the same each time, as from a shell
            run("--report", spelling.format(number), "sh", "-c", script, pass_fds=[number])
            os.close(number)
    lines = (here / "r.json").read_text().splitlines()
    assert {json.loads(line)["event"] for line in lines} == {"result"}
    assert (here / "seen").exists()


@pytest.mark.parametrize("report", ["r.json", "fd:{}"])
def test_a_report_with_other_names_is_refused(sandbox_cmd: Command, here: Path, report: str) -> None:
    """An earlier command may have made them, and would write what follows on our report."""
    for _ in range(2):  # the second time the plan is in the cache
        (here / "r.json").unlink(missing_ok=True)
        (here / "r.json").write_text("precious")
        with open(here / "r.json", "a") as file:
            number = fcntl.fcntl(file, fcntl.F_DUPFD, 50)
            call = ["run", "--report", report.format(number)]
            made = sandbox_cmd(*call, "ln", "r.json", "other", pass_fds=[number])
            assert "Invalid cross-device link" in made.stderr
            os.link(here / "r.json", here / "name")
            before = (here / "r.json").read_text()
            done = sandbox_cmd(*call, "true", pass_fds=[number])
            os.close(number)
        assert done.returncode == 125
        assert "hard links" in done.stderr
        assert f"  mend: rm {here if ':' in report else '.'}/r.json".replace("./", "") in done.stderr
        assert (here / "r.json").read_text() == before
        (here / "name").unlink()


def test_report_to_a_fifo(sandbox_cmd: Command, here: Path) -> None:
    """Its reader takes the first close for the end; the second time the plan is in the cache."""
    os.mkfifo(here / "fifo")
    for _ in range(2):
        with subprocess.Popen(["cat", "fifo"], stdout=subprocess.PIPE) as reader:
            try:
                for _ in range(100):
                    if sandbox_cmd("run", "--report", "fifo", "sh", "-c", "exit 5").returncode != 125:
                        break
                    time.sleep(0.01)  # the reader has not begun
                assert json.loads(reader.communicate(timeout=60)[0])["exit_code"] == 5
            finally:
                reader.kill()


@pytest.mark.parametrize("report", ["link.json", "way/r.json", "way/../r.json"])
def test_a_report_behind_a_link_is_refused(sandbox_cmd: Command, here: Path, report: str) -> None:
    (here / "real" / "in").mkdir(parents=True)
    (here / "link.json").symlink_to("r.json")
    (here / "way").symlink_to("real/in")
    done = sandbox_cmd("run", "--report", report, "true")
    assert done.returncode == 125
    assert "symbolic link" in done.stderr
    real = os.path.realpath(here / report)
    assert f"  mend: name its real path, {real}" in done.stderr or f"  mend: --report {real}" in done.stderr
    assert not (here / "r.json").exists()


def test_a_report_through_links_that_the_command_can_not_replace(run: Command, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    assert run("--report", tmp_path / "link" / "r.json", "sh", "-c", "exit 5").returncode == 5
    assert json.loads((tmp_path / "elsewhere" / "r.json").read_text())["exit_code"] == 5


def test_a_report_to_an_output_that_is_anothers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after su(1): the pipe behind standard output can be written to, and not opened."""

    def closed(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", closed)
    for name, number in (("/dev/stdout", 1), ("/dev/stderr", 2), ("/proc/self/fd/7", 7)):
        with pytest.raises(sandbox.SetupError) as caught:
            make_ready(name)
        assert (caught.value.mend or "").startswith(f"--report fd:{number} ")


def test_errors_of_ours_are_reported_too(sandbox_cmd: Command, here: Path) -> None:
    done = sandbox_cmd("run", "--report", "r.json", "-p", "nope", "true")
    assert done.returncode == 125
    report = json.loads((here / "r.json").read_text())
    assert report["event"] == "error"
    assert "nope" in report["message"]


@pytest.mark.parametrize(
    ("report", "message", "mend"),
    [
        ("/nowhere/x", "cannot write the report /nowhere/x: No such file", "mkdir -p /nowhere"),
        (".", "cannot write the report .: Is a directory", "--report ./verdict.json"),
        ("fifo", "cannot write the report fifo: it is a FIFO that nobody reads", "start its reader first"),
        ("fd:99", "cannot write the report fd:99: Bad file", "open it for writing, as in: 99>"),
        (
            "fd:0",
            "cannot write the report fd:0: it is open for reading only",
            "open it for writing, as in: 0>",
        ),
        ("fd:x", "--report takes a file or fd:N, not 'fd:x'", ""),
        ("fd:", "--report takes a file or fd:N, not 'fd:'", ""),
        ("fd:" + "9" * 40, "--report takes a file or fd:N, not 'fd:9", ""),
        ("", "--report takes a file or fd:N, not ''", ""),
    ],
)
def test_a_report_that_can_not_be_written(
    sandbox_cmd: Command, here: Path, report: str, message: str, mend: str
) -> None:
    os.mkfifo(here / "fifo")
    for words in (["--report", report], [f"--report={report}"]):
        with open("/dev/null") as stdin:
            done = sandbox_cmd("run", *words, "true", stdin=stdin)
        assert done.returncode == 125
        assert done.stderr.startswith(f"sandbox: {message}")
        assert f"  mend: {mend}" in done.stderr or not mend


# --- the plan cache --------------------------------------------------------------------------------


def test_a_cached_plan_ends_with_what_it_was_made_from(sandbox_cmd: Command, here: Path) -> None:
    def hostname() -> str:
        return sandbox_cmd("run", "hostname").stdout.strip()

    assert hostname() == hostname() == "sandbox"
    for name in ("first", "second"):
        (here / "sandbox.toml").write_text(f'[process]\nhostname = "{name}"\n')
        assert hostname() == hostname() == name
    (here / "sandbox.toml").unlink()
    assert hostname() == "sandbox"


def test_a_new_profile_of_the_users_takes_the_place_of_a_built_in_one(
    sandbox_cmd: Command, tmp_home: Path
) -> None:
    assert sandbox_cmd("run", "-p", "default", "hostname").stdout == "sandbox\n"
    profiles = tmp_home / ".config" / "sandbox" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "default.toml").write_text('extends = "base"\n[process]\nhostname = "mine"\n')
    assert sandbox_cmd("run", "-p", "default", "hostname").stdout == "mine\n"


def test_an_env_file_is_read_again(sandbox_cmd: Command, here: Path) -> None:
    for value in ("one", "two"):
        (here / "env").write_text(f"A={value}\n")
        assert sandbox_cmd("run", "--env-file", "env", "sh", "-c", "echo $A").stdout == f"{value}\n"


def test_what_came_through_a_pipe_is_not_kept(sandbox_cmd: Command, here: Path, tmp_home: Path) -> None:
    for value in ("one", "two"):
        done = sandbox_cmd("run", "--env-file", "/dev/stdin", "sh", "-c", "echo $A", input=f"A={value}\n")
        assert (done.stdout, done.stderr) == (f"{value}\n", "")
    for path in (tmp_home / ".cache").rglob("*"):
        assert path.is_dir() or b"two" not in path.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "unreadable", "directory"])
def test_a_damaged_cache_is_no_error(sandbox_cmd: Command, tmp_home: Path, damage: str) -> None:
    assert sandbox_cmd("run", "true").returncode == 0
    (entry,) = (tmp_home / ".cache" / "sandbox" / "plans").iterdir()
    data = entry.read_bytes()
    if damage == "directory":
        entry.unlink()
        entry.mkdir()
    elif damage == "unreadable":
        entry.chmod(0)
    else:
        entry.write_bytes({"empty": b"", "garbage": b"\xff" * 99, "truncated": data[:-9]}[damage])
    done = sandbox_cmd("run", "echo", "fine")
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_a_planted_entry_is_not_used(sandbox_cmd: Command, tmp_home: Path) -> None:
    """What another user could write there is left aside: the mode is what tells."""
    assert sandbox_cmd("run", "true").returncode == 0
    (path,) = (tmp_home / ".cache" / "sandbox" / "plans").iterdir()
    entry = fast.Entry.unpack(path.read_bytes())
    entry.environment = (*entry.environment, ("PLANTED", "1"))
    path.write_bytes(entry.pack())
    assert "PLANTED" in sandbox_cmd("run", "env").stdout  # it is what is used
    path.chmod(0o666)
    assert "PLANTED" not in sandbox_cmd("run", "env").stdout


def test_a_payload_can_not_write_the_cache(sandbox_cmd: Command, tmp_home: Path) -> None:
    tmp_home.chmod(0o777)
    script = "rm -rf .cache; mv .cache old; mv .cache/sandbox old; touch .cache/sandbox/plans/x"
    sandbox_cmd("run", "-v", f"{tmp_home}:{tmp_home}:rw", "-w", tmp_home, "sh", "-c", script)
    plans = tmp_home / ".cache" / "sandbox" / "plans"
    assert [path.name for path in plans.iterdir() if path.name == "x"] == []
    assert len(list(plans.iterdir())) == 1


def test_without_a_home_there_is_no_cache(sandbox_cmd: Command) -> None:
    done = sandbox_cmd("run", "echo", "fine", env={"HOME": None, "XDG_CACHE_HOME": None})
    assert (done.stdout, done.stderr) == ("fine\n", "")


# --- wrong input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Run a command in a rootless sandbox"),
        ("rnu true", "sandbox: unknown verb 'rnu'; did you mean 'run'?"),
        ("--profile x", "sandbox: unknown option '--profile'"),
        ("network", "sandbox: network needs a command: create, ls, inspect, rm"),
        ("run", "sandbox: no command"),
        ("run --", "sandbox: no command"),
        ("run --memroy 1M true", "sandbox: unknown option '--memroy'; did you mean '--memory'?"),
        ("run -Z true", "sandbox: unknown option '-Z'"),
        ("run --memory -- true", "sandbox: option --memory needs a value, and `--` is none"),
        ("run --report=-- true", "sandbox: option --report needs a value"),
        ("run -m-- true", "sandbox: option -m"),
        ("shell -p --", "sandbox: option -p needs a value"),
        ("explain -p -- true", "sandbox: option -p needs a value"),
        ("run -p", "sandbox: argument -p/--profile: expected one argument"),
        ("run -p nope true", 'sandbox: there is no profile "nope"'),
        ("run -m 12Q true", "sandbox: option --memory"),
        ("run --timeout 0 true", "sandbox: option --timeout"),
        ("run --timeout -5 true", "sandbox: option --timeout"),
        (
            "run -v /nonexistent:/x true",
            "sandbox: option --bind: the mount source /nonexistent does not exist",
        ),
        ("run -v /etc true", "sandbox: option --bind"),
        ("run -v /etc:/../../x:ro true", "sandbox: option --bind"),
        ("run -w relative/nowhere true", "sandbox: "),
        ("run --net lan true", "sandbox: option --net"),
        ("run --image :x true", "sandbox: option --image"),
        ("run --cpus 1 true", "sandbox: option --cpus"),
        ("run -d true", "sandbox: --detach: sandboxes without their caller are not available yet"),
        ("run --keep true", "sandbox: --keep takes --name"),
        ("run -d true", "sandbox: --detach: "),
        ("run --quiet=yes true", "sandbox: "),
        ("run --require memory true", "sandbox: "),
        ("run --env-file /nonexistent true", "sandbox: option --env-file: cannot read /nonexistent"),
        (
            "shell NAME",
            "sandbox: entering a sandbox that runs is not available yet, so 'NAME' can't be entered",
        ),
        ("explain -p nope", 'sandbox: there is no profile "nope"'),
        ("doctor --jsn", "sandbox: unknown option '--jsn'; did you mean '--json'?"),
        ("doctor now", "sandbox: unexpected argument 'now'"),
        ("profile", "sandbox: profile needs a command"),
        ("profile lst", "sandbox: unknown command 'lst'; did you mean 'list'?"),
        ("profile check nope", 'sandbox: there is no profile "nope"'),
        ("profile show a b", "sandbox: unexpected argument 'b'"),
        ("profile trust", "sandbox: there is no sandbox.toml"),
        (
            "run -u 99999999999 true",
            "sandbox: option --user: user.map: 99999999999 is not an id: the largest",
        ),
        ("run --net user --publish 99999:1 true", 'sandbox: option --publish: "99999" is not a port'),
        ("run -p ./nope.toml true", "sandbox: there is no profile ./nope.toml"),
        ("run -p . true", 'sandbox: "." is not the name of a profile'),
        ("build -f /nope .", "sandbox: cannot read /nope"),
        ("image push --authfile /nope x", "sandbox: there is no"),
    ],
)
def test_wrong_input_gets_one_clear_message(sandbox_cmd: Command, words: str, message: str) -> None:
    done = sandbox_cmd(*shlex.split(words))
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert (
        any(each in done.stderr for each in ("\nsandbox:   mend: ", "--help`\n", "did you mean")) or not words
    )


def test_a_directory_that_is_gone(sandbox_cmd: Command, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = shlex.join([sys.executable, "-m", "sandbox", "run", "true"])
    shell = f"cd {tmp_path}/gone && rmdir ../gone && exec {command}"
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    done = subprocess.run(["sh", "-c", shell], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 125
    assert done.stderr.startswith("sandbox: cannot use the working directory")


@pytest.mark.parametrize(
    ("limit", "why", "mend"),
    [
        ("-f 0", "sandbox: cannot launch: File too large\n", "ulimit -f unlimited"),
        ("-n 20", "sandbox: cannot arrange descriptors: the limit on open files is 20\n", "ulimit -Hn"),
    ],
)
def test_a_caller_with_tiny_limits(here: Path, limit: str, why: str, mend: str) -> None:
    done = limited(limit)
    assert done.returncode == 125
    assert done.stderr.startswith(why)
    assert mend in done.stderr.partition("mend: ")[2]


def limited(limit: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    shell = f"ulimit {limit}; exec {shlex.quote(sys.executable)} -m sandbox run true"
    return subprocess.run(["sh", "-c", shell], env=environ, capture_output=True, text=True, timeout=60)


def test_a_caller_with_little_memory(here: Path) -> None:
    """With less than enough the interpreter itself dies of it, in ways of its own; with more, nobody does."""
    said = []
    for kibibytes in range(10_000, 60_000, 500):
        done = limited(f"-v {kibibytes}")
        if done.returncode == 0:
            break
        if done.returncode == 125:
            said.append(done.stderr)
    told = [
        each for each in said if each.startswith("sandbox: there is not enough memory for the interpreter\n")
    ]
    assert told, said
    assert all("ulimit -v" in each.partition("mend: ")[2] for each in told)
    assert "Traceback" not in "".join(said)


def test_an_empty_command(run: Command) -> None:
    done = run("--", "")
    assert (done.returncode, done.stderr) == (127, "sandbox: the command's name is empty\n")


@pytest.mark.parametrize(
    ("name", "mend"),
    [(None, "cd to a directory"), ("./x.toml", "in a directory that you may"), ("x", "XDG_CONFIG_HOME")],
)
def test_a_profile_where_nobody_may_write(
    sandbox_cmd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, mend: str
) -> None:
    monkeypatch.chdir("/proc/self")  # closed even to root
    done = sandbox_cmd("profile", "new", *([name] if name else []), env={"XDG_CONFIG_HOME": "/proc/self"})
    assert done.returncode == 125
    assert done.stderr.startswith("sandbox: cannot write /proc/")
    assert mend in done.stderr.partition("mend: ")[2]


def test_names_in_messages_do_not_command_the_terminal(sandbox_cmd: Command) -> None:
    for words in (["run", "-p", "x\x1b[2J", "true"], ["\x1b[2J"], ["run", "--\x1b[2J"], ["run", "\x1b[2J"]):
        assert "\x1b" not in sandbox_cmd(*words).stderr


def test_a_traceback_only_when_asked_for(sandbox_cmd: Command) -> None:
    done = sandbox_cmd("run", "-p", "nope", "true", env={"SANDBOX_DEBUG": "1"})
    assert "Traceback" in done.stderr
    assert 'no profile "nope"' in done.stderr


PRINTING = [
    "profile list",
    "profile list --json",
    "profile show",
    "profile schema --json",
    "profile check",
    "doctor",
    "doctor --json",
    "explain",
    "run --dry-run true",
    "--help",
    "run --help",
    "profile --help",
    "--version",
]


@pytest.mark.parametrize("words", PRINTING)
@pytest.mark.parametrize(
    ("redirect", "why", "mend"),
    [
        ("> /dev/full", "No space left on device", "make room, or redirect it to where there is some"),
        (">&-", "Bad file descriptor", "leave it open"),
    ],
)
def test_a_stdout_that_takes_nothing(here: Path, words: str, redirect: str, why: str, mend: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    shell = f"{shlex.join([sys.executable, '-m', 'sandbox'])} {words} {redirect}"
    done = subprocess.run(["sh", "-c", shell], env=environ, stderr=subprocess.PIPE, text=True, timeout=60)
    message = f"sandbox: cannot write to standard output: {why}\nsandbox:   mend: {mend}\n"
    assert (done.returncode, done.stderr) == (125, message)


@pytest.mark.parametrize("words", PRINTING)
def test_a_reader_that_went_away_is_none(here: Path, words: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    command = shlex.join([sys.executable, "-m", "sandbox"])
    # The first thing that is written finds nobody at the other end.
    shell = f"{{ read -r; {command} {words}; echo $? >&2; }} < {here}/go | : > {here}/go"
    os.mkfifo(here / "go")
    with subprocess.Popen(["bash", "-c", shell], env=environ, stderr=subprocess.PIPE, text=True) as process:
        said = process.communicate(timeout=60)[1]
    assert said == "141\n"


def test_closed_stdout_and_stderr(here: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    for words in ("profile list", "run -p nope true", "", "--help"):
        shell = f"{shlex.join([sys.executable, '-m', 'sandbox'])} {words} >&- 2>&-"
        assert subprocess.run(["sh", "-c", shell], env=environ, timeout=60).returncode == 125


@pytest.mark.parametrize(
    "words",
    ["", "nope", "run --nope", "run -p nope true", "image inspect nope", "doctor --nope", "build -f nope"],
)
def test_a_stderr_that_takes_nothing(sandbox_cmd: Command, here: Path, words: str) -> None:
    """The status is ours, not the interpreter's for a stream that it could not flush."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as gone, open("/dev/full", "w") as full:
        for stderr in (gone, full):
            assert sandbox_cmd(*words.split(), stdout=subprocess.DEVNULL, stderr=stderr).returncode == 125


@pytest.mark.parametrize("words", ["profile list", "explain -p ./p.toml", "profile show ./p.toml"])
def test_a_locale_without_the_characters(sandbox_cmd: Command, here: Path, words: str) -> None:
    (here / "p.toml").write_text('extends = "default"\ndescription = "für \u4e2d"\n')
    done = sandbox_cmd(*words.split(), env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")


# --- names that are no text --------------------------------------------------------------------------

ODD = os.fsdecode(b"o\xffd d")  # no UTF-8, and a space


@pytest.fixture
def odd(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = here / ODD
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    monkeypatch.chdir(directory)
    return directory


def test_a_directory_whose_name_is_no_text(run: Command, sandbox_cmd: Command, odd: Path) -> None:
    done: Any = run("--report", f"{ODD}.json", "sh", "-c", "pwd; touch made", text=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, os.fsencode(odd) + b"\n", b"")
    assert json.loads((odd / f"{ODD}.json").read_text())["verdict"] == "ok"
    assert (odd / "made").exists()
    explained = sandbox_cmd("explain", "--", "echo", ODD)
    assert explained.returncode == 0
    assert explained.stdout.endswith("run: echo $'o\\xffd d'\n")
    assert "/o\\xffd d is the host's and writable" in explained.stdout


@pytest.mark.parametrize(
    ("words", "message", "mend"),
    [
        (["-p", ODD], '"o\\xffd d" is not the name of a profile', ""),
        (["-p", f"./{ODD}.toml"], "o\\xffd d.toml:2: the mount source", "mkdir -p $'"),
        (["-v", f"{ODD}:/x"], "option --bind: the mount source", "mkdir -p $'"),
        (["--env-file", ODD], "option --env-file: cannot read", ""),
        (["--report", f"{ODD}/x"], "cannot write the report o\\xffd d/x", "mkdir -p $'o\\xffd d'"),
        (["--root", ODD], "option --root: the root directory", "mkdir -p $'"),
    ],
)
def test_messages_about_names_that_are_no_text(
    sandbox_cmd: Command, odd: Path, words: list[str], message: str, mend: str
) -> None:
    (odd / f"{ODD}.toml").write_text('[mounts]\n"/x" = { source = "./gone", mode = "ro" }\n')
    done = sandbox_cmd("run", *words, "true")
    assert done.returncode == 125
    assert done.stderr.startswith(f"sandbox: {message}")
    assert f"  mend: {mend}" in done.stderr or not mend
    assert "\\udc" not in done.stderr


def test_json_of_names_that_are_no_text(sandbox_cmd: Command, odd: Path) -> None:
    (odd / "sandbox.toml").write_text('extends = "default"\ndescription = "für"\n')
    [project] = [
        each for each in json.loads(sandbox_cmd("profile", "list", "--json").stdout) if not each["name"]
    ]
    assert project["file"].endswith("o\ufffdd d/sandbox.toml")
    assert project["description"] == "für"
    sandbox_cmd("run", "--report", "r.json", "-p", ODD, "true")
    assert "o\\xffd d" in json.loads((odd / "r.json").read_text())["message"]


# --- a home that is none -----------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["relative", "/with:colon", "/with\nline"])
def test_a_home_that_can_be_none(sandbox_cmd: Command, home: str) -> None:
    environ = {"HOME": home, **{f"XDG_{name}_HOME": None for name in ("CONFIG", "CACHE", "STATE", "DATA")}}
    assert sandbox_cmd("profile", "list", env=environ).returncode == 0
    done = sandbox_cmd("run", "-p", "dev", "true", env=environ)
    assert done.returncode == 125
    assert "can't be found: HOME is " in done.stderr
    assert "  mend: export HOME=/" in done.stderr


# --- the other verbs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["--help", "run --help", "shell -h", "explain --help", "doctor --help", "help run"]
)
def test_help(sandbox_cmd: Command, words: str) -> None:
    done = sandbox_cmd(*words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: sandbox" in done.stdout


@pytest.mark.parametrize("command", ["list", "show", "check", "schema", "new", "trust", "untrust"])
def test_help_of_profile(sandbox_cmd: Command, command: str) -> None:
    assert f"usage: sandbox profile {command}" in sandbox_cmd("profile", command, "--help").stdout
    assert f"\n  {command}" in sandbox_cmd("profile", "--help").stdout


def test_version(sandbox_cmd: Command) -> None:
    assert sandbox_cmd("--version").stdout == f"sandbox {sandbox.__version__}\n"


def test_explain_says_where_values_come_from(sandbox_cmd: Command, here: Path) -> None:
    (here / "p.toml").write_text('extends = "untrusted"\n[limits]\npids = 7\n')
    done = sandbox_cmd("explain", "-p", "./p.toml", "--memory", "77M", "--", "echo", "a b")
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("pids = 7") and "p.toml:3" in line]
    assert [
        line
        for line in done.stdout.splitlines()
        if line.startswith("memory = ") and "option --memory" in line
    ]
    assert "limit pids to 7 (rlimit)  [p.toml:3]" in done.stdout.splitlines()
    assert done.stdout.endswith("run: echo 'a b'\n")


def test_dry_run_runs_nothing(sandbox_cmd: Command, here: Path) -> None:
    done = sandbox_cmd("run", "--dry-run", "touch", "made")
    assert done.returncode == 0
    assert done.stdout == sandbox_cmd("explain", "touch", "made").stdout
    assert sandbox_cmd("run", "--dry-run", "--report", "r.json", "touch", "made").returncode == 0
    assert os.listdir(here) == []


def test_doctor(sandbox_cmd: Command) -> None:
    done = sandbox_cmd("doctor")
    assert done.returncode == 0, done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("ok  kernel")]
    found = json.loads(sandbox_cmd("doctor", "--json").stdout)
    assert found["ok"] is True
    assert {"userns", "seccomp", "overlay"} <= {check["name"] for check in found["checks"]}


def test_a_failed_setup_is_explained(sandbox_cmd: Command, here: Path) -> None:
    """User namespaces are used up: in a namespace of its own, where that can be had."""
    words = shlex.join([sys.executable, "-m", "sandbox", "run", "--report", "r.json"])
    script = f"echo 0 > /proc/sys/user/max_user_namespaces && exec {words}"
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    for option in ("", "-q"):
        limited = ["unshare", "--user", "--map-root-user", "sh", "-c", f"{script} {option} true"]
        done = subprocess.run(limited, env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 125
        assert done.stderr.count("sandbox: cannot") == 1
        assert "  mend: " in done.stderr
        assert json.loads((here / "r.json").read_text())["event"] == "error"


def test_profile_list_and_show(sandbox_cmd: Command) -> None:
    names = [line.split()[0] for line in sandbox_cmd("profile", "list").stdout.splitlines()]
    assert {"base", "default", "untrusted"} <= set(names)
    assert {each["name"] for each in json.loads(sandbox_cmd("profile", "list", "--json").stdout)} >= set(
        names
    )
    assert "[limits]" in sandbox_cmd("profile", "show", "untrusted").stdout
    assert sandbox_cmd("profile", "check", *names).stdout == "".join(f"{name}: ok\n" for name in names)


def test_profile_schema(sandbox_cmd: Command) -> None:
    assert "limits" in json.loads(sandbox_cmd("profile", "schema", "--json").stdout)["properties"]
    assert "memory" in sandbox_cmd("profile", "schema").stdout


@pytest.fixture
def trusting(tmp_home: Path) -> Iterator[None]:
    """The record of what is trusted is meant to stay."""
    yield
    shutil.rmtree(tmp_home / ".local" / "state" / "sandbox")


def test_profile_new_check_trust(sandbox_cmd: Command, here: Path, trusting: None) -> None:
    assert sandbox_cmd("profile", "new").stdout == f"{here}/sandbox.toml\n"
    again = sandbox_cmd("profile", "new")
    assert again.returncode == 125
    assert "exists already" in again.stderr
    assert sandbox_cmd("profile", "check").returncode == 0
    (here / "sandbox.toml").write_text('[net]\nmode = "host"\n')
    refused = sandbox_cmd("run", "true")
    assert refused.returncode == 125
    assert "sandbox profile trust" in refused.stderr
    trusted = sandbox_cmd("profile", "trust")
    assert trusted.stdout.startswith(f"{here}/sandbox.toml: trusted\n")
    assert "net" in trusted.stdout
    assert sandbox_cmd("run", "true").returncode == 0
    assert sandbox_cmd("run", "true").returncode == 0
    (here / "sandbox.toml").write_text('[net]\nmode = "host"\n# changed\n')
    assert "changed" in sandbox_cmd("run", "true").stderr
    assert sandbox_cmd("profile", "untrust").stdout == "trusted no longer\n"
    assert sandbox_cmd("profile", "untrust").stdout == "was not trusted\n"


def test_taking_trust_back_ends_a_cached_plan(sandbox_cmd: Command, here: Path, trusting: None) -> None:
    (here / "sandbox.toml").write_text('[net]\nmode = "host"\n')
    sandbox_cmd("profile", "trust")
    assert sandbox_cmd("run", "true").returncode == 0
    assert sandbox_cmd("run", "true").returncode == 0
    sandbox_cmd("profile", "untrust")
    assert sandbox_cmd("run", "true").returncode == 125
