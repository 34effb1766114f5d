"""Who is taken while the machine is busy: each reason at its mark, without flapping."""

import time

import pytest

from pipeline.degrade import Rung
from services.ingest import whip
from services.ingest.admission import BUS_AWAY_S, EASE, MEMORY_SHARE, TRIP_S, Admission
from services.load import HIGH_LAG_S, HIGH_WAIT_S, Load
from tests.services.ingest.support import AUTH, SDP_TYPE, serving

GIB = 1 << 30
BUSY = {
    "scorer_busy": {"wait_p95_s": HIGH_WAIT_S + 0.01},
    "loop_busy": {"lag_p99_s": HIGH_LAG_S + 0.01},
    "memory": {"memory_bytes": GIB, "memory_limit_bytes": int(GIB / (MEMORY_SHARE + 0.01))},
    "bus_away": {"bus_away_s": BUS_AWAY_S + 0.1},
}


def admission(rung=Rung.FULL, *, lasting_s=TRIP_S, **figures):
    made = Admission(max_streams=4)
    made.note(Load(**figures), rung, 100.0)
    made.note(Load(**figures), rung, 100.0 + lasting_s)
    return made


def code(made, live=1):
    problem = made.refusal(live)
    return None if problem is None else problem.code


def test_a_machine_at_ease_takes_streams_up_to_its_number():
    made = admission()
    assert [code(made, live) for live in (0, 3, 4, 5)] == [None, None, "at_capacity", "at_capacity"]


@pytest.mark.parametrize("reason", BUSY)
def test_each_reason_has_its_code_and_says_when_to_come_back(reason):
    problem = admission(**BUSY[reason]).refusal(1)
    assert problem is not None
    assert (problem.status, problem.code) == (503, reason)
    assert 3 <= int(problem.headers["Retry-After"]) <= 8
    assert len(problem.detail.splitlines()) == 1


def test_come_back_times_are_spread():
    made = admission(**BUSY["memory"])
    assert len({made.refusal(1).headers["Retry-After"] for _ in range(200)}) > 1


@pytest.mark.parametrize("reason", ["scorer_busy", "loop_busy"])
def test_where_nothing_runs_there_is_nothing_to_protect(reason):
    assert code(admission(**BUSY[reason]), live=0) is None


@pytest.mark.parametrize("reason", ["memory", "bus_away"])
def test_what_hurts_an_only_stream_too_refuses_it(reason):
    assert code(admission(**BUSY[reason]), live=0) == reason


def test_a_moment_above_the_mark_does_not_count():
    assert code(admission(**BUSY["loop_busy"], lasting_s=TRIP_S / 2)) is None


def test_it_clears_well_below_the_mark_only():
    made = admission(**BUSY["scorer_busy"])
    made.note(Load(wait_p95_s=HIGH_WAIT_S * (EASE + 0.1)), Rung.FULL, 200.0)
    assert code(made) == "scorer_busy"
    made.note(Load(wait_p95_s=HIGH_WAIT_S * (EASE - 0.1)), Rung.FULL, 201.0)
    assert code(made) is None
    made.note(Load(wait_p95_s=HIGH_WAIT_S * (EASE + 0.1)), Rung.FULL, 202.0)
    assert code(made) is None


def test_streams_that_are_degraded_so_far_let_no_other_in():
    assert code(admission(Rung.VIDEO_DROPPED)) is None
    assert code(admission(Rung.REFUSE)) == "scorer_busy"
    assert code(admission(Rung.REFUSE), live=0) is None


def test_draining_comes_before_everything():
    made = admission(**BUSY["memory"])
    made.draining = True
    assert made.reasons(9) == ["draining"]


async def test_a_refused_offer_builds_no_connection_and_costs_next_to_nothing(monkeypatch, http):
    built = []
    made = whip.Publication
    monkeypatch.setattr(whip, "Publication", lambda *a, **k: built.append(1) or made(*a, **k))
    async with serving(posts_per_s=1000) as server:
        server.whip.admission.note(Load(**BUSY["memory"]), Rung.FULL, 0.0)
        server.whip.admission.note(Load(**BUSY["memory"]), Rung.FULL, 9.0)
        spent = []
        for number in range(20):
            begun = time.process_time()
            url = server.endpoint(f"s{number}")
            async with http.post(url, data=b"v=0", headers=AUTH | SDP_TYPE) as answer:
                problem = await answer.json(content_type=None)
            spent.append(time.process_time() - begun)
            assert (answer.status, problem["code"]) == (503, "memory")
            assert 3 <= int(answer.headers["Retry-After"]) <= 8
        assert server.whip.statistics().refused == {"memory": 20}
        assert server.whip.live == 0
    assert built == []
    # CPU of client and server together, so that other work on the machine does not count.
    assert sorted(spent)[len(spent) // 2] < 0.05
