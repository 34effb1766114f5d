"""The number of streams that a machine holds: where it is kept, when it counts, how it is found."""

import pytest

from services import calibration
from services.calibration import MOST_ENTRIES, Calibration, effective, store, stored
from services.cli.calibrating import Search, _judged
from services.settings import Settings

MODEL = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("DEMEANOR_MAX_STREAMS", raising=False)
    return tmp_path / "demeanor"


def measured(number=9, model=MODEL):
    return Calibration(number, "2026-11-25", calibration.machine(), model)


def test_a_result_counts_until_somebody_says_otherwise(state):
    settings, known = effective(Settings(), MODEL)
    assert settings.max_streams == 64
    assert "demeanor calibrate" in known
    store(measured())
    settings, known = effective(Settings(), MODEL)
    assert settings.max_streams == 9
    assert "2026-11-25" in known
    settings, known = effective(Settings(max_streams=3), MODEL)
    assert (settings.max_streams, known) == (3, "as configured")


def test_it_is_of_one_machine_and_one_model(monkeypatch):
    store(measured())
    assert stored("sha256:another") is None
    assert stored(MODEL) == measured()
    monkeypatch.setattr(calibration, "machine", lambda: "another, 64 cores")
    assert stored(MODEL) is None


def test_a_file_that_cannot_be_read_is_as_good_as_none(state):
    path = store(measured())
    for junk in (b"", b"[]", b"\xff", b'{"a": {"max_streams": "many"}}'):
        path.write_bytes(junk)
        assert stored(MODEL) is None
    store(measured(4))
    assert stored(MODEL) == measured(4)
    assert [file.name for file in state.iterdir()] == [calibration.FILE]


def test_the_file_stays_small():
    for number in range(MOST_ENTRIES + 5):
        store(measured(number + 1, f"sha256:{number}"))
    assert stored("sha256:0") is None
    assert stored(f"sha256:{MOST_ENTRIES + 4}") is not None


@pytest.mark.parametrize("true", [0, 1, 2, 3, 7, 8, 13, 40, 64])
@pytest.mark.parametrize("first", [1, 4, 64])
def test_the_search_finds_the_number_in_few_rounds(true, first):
    search, rounds = Search(first, most=40), []
    while (streams := search.next()) is not None:
        rounds.append(streams)
        search.note(streams, good=streams <= true)
    assert search.good == min(true, 40)
    assert len(rounds) == len(set(rounds)) <= 12
    assert max(rounds) <= 40


def figures(**changed):
    names = {
        "windows": "demeanor_scorer_windows_total",
        "skipped": "demeanor_scorer_skipped_windows_total",
        "failed": "demeanor_scorer_failed_windows_total",
        "live": "demeanor_ingest_live_sessions",
        "wait": "demeanor_load_scorer_wait_seconds_p95",
        "lag": "demeanor_load_loop_lag_seconds_p99",
        "rung": "demeanor_load_degrade_rung",
    }
    good = {"windows": 40.0, "skipped": 0.0, "failed": 0.0, "live": 2.0}
    return {names[name]: value for name, value in (good | changed).items()}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"skipped": 1.0}, "windows were skipped"),
        ({"failed": 1.0}, "windows were skipped"),
        ({"live": 1.0}, "streams ended"),
        ({"wait": 0.4}, "the models are too slow"),
        ({"lag": 0.2}, "the server is too slow"),
        ({"rung": 1.0}, "windows were given up"),
        ({"windows": 0.0}, "nothing was scored"),
    ],
)
def test_what_makes_a_round_too_much(changed, words):
    before = figures(windows=0.0)
    assert _judged(2, before, figures(**changed), connected=True).refusal == words
    assert _judged(2, before, figures(), connected=False).refusal == "not all could connect"
