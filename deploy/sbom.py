# noqa: INP001 - a script beside shell scripts, no package
"""Print a software bill of materials (CycloneDX 1.6, JSON) of one lock: ``sbom.py [cpu|gpu|dev]``.

Made from the lock alone, without the network: names, versions, every hash that pip would take, and
the built-in models. The page's libraries stand in services/web/vendor/VENDORED.md.
"""

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_PACKAGE = re.compile(
    r"^([A-Za-z0-9._-]+)==([^\s\\;]+)[^\n]*((?:\n +--hash=sha256:[0-9a-f]{64}[^\n]*)*)",
    re.MULTILINE,
)


def packages(lock: str) -> list[dict[str, Any]]:
    """Return the components of a lock as pip-compile writes it."""
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": f"pkg:pypi/{name}@{version}",
                    "hashes": [
                        {"alg": "SHA-256", "content": digest} for digest in _digests(hashes)
                    ],
                }
            ],
        }
        for name, version, hashes in _PACKAGE.findall(lock)
    ]


def _digests(lines: str) -> list[str]:
    return re.findall(r"sha256:([0-9a-f]{64})", lines)


def models() -> list[dict[str, Any]]:
    """Return the built-in models."""
    manifest = json.loads((ROOT / "pipeline" / "models" / "manifest.json").read_bytes())
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model:{name}",
            "name": name,
            "version": entry["version"],
            "description": entry["source"],
            "hashes": [{"alg": "SHA-256", "content": entry["sha256"]}],
            "licenses": [{"license": {"name": entry["licence"]}}],
        }
        for name, entry in manifest["models"].items()
    ]


def bill(lock: str) -> dict[str, Any]:
    """Return the whole document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "deploy" / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    product = {"type": "application", "name": project["name"], "version": project["version"]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product},
        "components": packages(text) + models(),
    }


if __name__ == "__main__":
    json.dump(bill(sys.argv[1] if len(sys.argv) > 1 else "cpu"), sys.stdout, indent=1)
