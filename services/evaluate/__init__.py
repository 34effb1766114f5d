"""``demeanor evaluate``: labelled clips and images through the production models, judged."""
