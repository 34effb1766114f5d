"""The entry of the ``demeanor`` command."""

import signal


def main() -> None:
    """Run the command line; the process' exit code is listed in ``exits``.

    Until a verb has something to save, Ctrl-C ends the process at once and without a word.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from services.cli.app import app

    app()


if __name__ == "__main__":
    main()
