"""What holds for every test: nothing is left in the home of whoever runs them."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _state_of_our_own(tmp_path_factory):
    """Keep audit logs of the product, and of programs that tests start, in a folder of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
