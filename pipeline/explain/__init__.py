"""The explain tier's core: prompt, labels, cached generation, over sessions handed in.

numpy only; no session is opened here, no clock is read. Design and sources: R1-Omni
(arXiv 2503.05379) and HumanOmni (arXiv 2501.15111).
"""
