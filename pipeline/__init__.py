"""The core: windows, scores, fusion and alerts as plain values. No sockets, no clock, no loop."""
