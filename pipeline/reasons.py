"""Why a window was not scored: the fine list of counters and the short list on the wire.

One table, total over :data:`pipeline.types.SkipReason` (a test compares the two), so a reason that
nobody mapped cannot reach a client.
"""

from collections.abc import Mapping
from types import MappingProxyType

from pipeline.events import WireSkip
from pipeline.types import SkipReason

WIRE: Mapping[SkipReason, WireSkip] = MappingProxyType(
    {
        "no_evidence": "no_evidence",
        "superseded": "stale",
        "stale": "stale",
        "late": "stale",
        "unanswered": "stale",
        "overload": "overload",
        "draining": "overload",
        "low_coverage": "low_quality",
        "scoring_off": "policy",
        "consent_withdrawn": "policy",
        "scorer_lost": "model_error",
        "poison": "model_error",
        "bad_output": "model_error",
        "decoder_crash": "model_error",
    }
)

LACKS_EVIDENCE: frozenset[WireSkip] = frozenset({"no_evidence", "low_quality", "policy"})
"""Reasons that say something about the person's media. The others are load or faults of ours and
leave the state as it was: a wall must not read "no evidence" because a machine was busy."""
