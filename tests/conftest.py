"""What holds for every test: nothing is left in the home of whoever runs them."""

import logging

import pytest
import structlog


@pytest.fixture(autouse=True, scope="session")
def _state_of_our_own(tmp_path_factory):
    """Keep audit logs of the product, and of programs that tests start, in a folder of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _logs_of_this_test_only():
    """Forget how a command set up the logs: it named a stream that closes with its test."""
    for handler in list(logging.root.handlers):
        if getattr(getattr(handler, "stream", None), "closed", False):
            logging.root.removeHandler(handler)
    yield
    structlog.reset_defaults()
