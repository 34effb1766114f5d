"""The scoring loop around :mod:`pipeline.scorer`."""
