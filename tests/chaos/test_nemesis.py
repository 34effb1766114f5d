"""One short round of the nemesis in every run; ``make chaos`` plays many seeds, longer faults."""

from tests.chaos.nemesis import KINDS, Fault, run, schedule


async def test_a_round_of_faults_costs_no_event():
    """Redis killed, a gateway killed, the network cut: nothing lost, nothing twice, books exact."""
    report = await run(5, KINDS["short"])
    assert report.verdict.faults == []
    assert (report.verdict.lost, report.verdict.twice, report.verdict.gaps) == (0, 0, 0)
    assert report.accounted
    assert report.clean
    assert report.windows > 50
    assert report.verdict.events > 2 * report.windows


def test_a_seed_is_a_schedule():
    plans = [schedule(seed, KINDS["short"]) for seed in range(200)]
    assert plans == [schedule(seed, KINDS["short"]) for seed in range(200)]
    names = {fault.name for plan in plans for fault in plan}
    assert names == {name for pool in KINDS["short"].pools for name in pool}
    for plan in plans:
        assert {fault.name.partition("-")[0] for fault in plan} == {"bus", "gateway", "net"}
    assert str(Fault("net-cut", 1.26, 2.0)) == "net-cut@1.3+2.0"
