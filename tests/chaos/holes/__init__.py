"""Attacks on the WebRTC stack, each run with our guard and with the guard taken out.

    python -m tests.chaos.holes            # one row an attack, figures side by side
    python -m tests.chaos.holes R1 R2      # some of them

`tests/services/ingest/test_holes.py` runs the same attacks and judges the figures. Everything stays
on 127.0.0.0/8.
"""
