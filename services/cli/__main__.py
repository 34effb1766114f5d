"""The entry of the ``demeanor`` command."""

import signal
import threading

_THREADS_END_S = 3.0


def main() -> None:
    """Run the command line; the process' exit code is listed in ``exits``.

    Until a verb has something to save, Ctrl-C ends the process at once and without a word.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from services.cli.app import app

    try:
        app()
    except SystemExit as ended:
        _let_go(ended.code)
        raise


def _let_go(code: object) -> None:
    """See that a thread which hangs (a model, a decoder) does not keep the process from ending."""
    if threading.active_count() > 1:
        from services.ending import last_resort

        last_resort(_THREADS_END_S, code=code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
