"""The explain tier's process: tokenizers, triggers, a bounded queue, and what it writes."""
