"""The command's entry point. Tries the fast path, which imports almost nothing, for `run`."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status. *arguments*: without the program's name."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words and words[0] == "run":
            from sandbox.cli import fast

            # Whatever is odd there (an unreadable cache, no working directory) is for the slow path to say.
            try:  # noqa: SIM105 (contextlib is not imported here)
                fast.run(words[1:])
            except Exception:
                pass
        from sandbox.cli import app

        return app.main(words)
    except KeyboardInterrupt:
        return 130
