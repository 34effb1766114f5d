"""Alert events: the reason names cues of the alert's own windows, or the rule itself."""

import pytest

from pipeline import events
from pipeline.alerts import Alerts
from pipeline.envelope import Envelopes
from pipeline.events import Cue
from pipeline.frustration import Cleared, FrustrationSettings, Raised
from pipeline.rationale import Finding

READING = events.Frustration(value=0.74, low=0.66, high=0.82, trend="rising", since_ms=46_000)
RAISED = Raised(READING, since_ms=50_000, windows=tuple(range(99, 115)))
CUE = Cue("loudness", "audio", -17.2, -24.0, "dBFS")
FOUND = (Finding("louder than the first minute", (CUE,)),)


@pytest.fixture
def alerts():
    return Alerts("ses_1", "p1", FrustrationSettings().high, Envelopes("ses_1"))


def test_an_alert_is_explained_right_after(alerts):
    alerts.note(110, FOUND)
    alerts.note(112, ())
    raised, explained = alerts.written(RAISED, 1_000)
    assert raised.alert == events.Alert(
        id=raised.alert.id,
        rule="frustration_high",
        level="high",
        value=0.74,
        low=0.66,
        high=0.82,
        threshold=0.7,
        dwell_ms=8_000,
        since_ms=50_000,
    )
    assert raised.alert.id.startswith("alr_")
    assert raised.reason == events.Reason("voice", "Louder than the first minute.")
    assert raised.windows == list(range(99, 115))
    assert (explained.about_seq, explained.seq) == (raised.seq, raised.seq + 1)
    assert explained.alert_id == raised.alert.id
    assert (explained.source, explained.generated, explained.model) == ("rules", False, None)
    assert explained.cues == [CUE]
    assert explained.text == raised.reason.text


def test_cues_from_before_the_alert_explain_nothing(alerts):
    alerts.note(98, FOUND)
    raised, explained = alerts.written(RAISED, 1_000)
    assert raised.reason.code == "level"
    assert raised.reason.text == "Expressed frustration at or above 0.70 for 8 s."
    assert explained.cues == []


def test_the_end_names_the_alert_it_ends(alerts):
    first, _ = alerts.written(RAISED, 1_000)
    (cleared,) = alerts.written(Cleared("recovered", 41_500, 0.88), 2_000)
    assert isinstance(cleared, events.AlertCleared)
    assert cleared.alert_id == first.alert.id
    assert (cleared.cause, cleared.duration_ms, cleared.peak) == ("recovered", 41_500, 0.88)
    second, _ = alerts.written(RAISED, 1_000)
    assert second.alert.id != first.alert.id
    assert alerts.raised_count == 2


def test_what_stood_out_is_news_for_eight_seconds(alerts):
    assert alerts.measured == ()
    alerts.note(10, FOUND)
    alerts.note(26, ())
    assert alerts.measured == (CUE,)
    alerts.note(27, ())
    assert alerts.measured == ()
