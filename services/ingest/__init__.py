"""WHIP signalling, peers, decoding and file sources; the only room that sees aiortc and av."""
