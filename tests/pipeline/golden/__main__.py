"""Write the golden files anew: ``python -m tests.pipeline.golden``."""

import json
from pathlib import Path

from pipeline import events, schema
from tests.pipeline.vectors import VECTORS

here = Path(__file__).parent
for name, vector in VECTORS.items():
    event = events.decode(json.dumps(vector))
    (here / f"{name}.json").write_bytes(events.encode(event) + b"\n")
for name, document in (
    ("schema", schema.json_schema()),
    ("asyncapi", schema.asyncapi(version="0.1.0")),
):
    (here / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
