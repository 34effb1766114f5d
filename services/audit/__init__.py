"""The audit log: who looked, who published, what was refused, switched or erased. No content.

``notes`` is what other rooms see, ``chain`` the files, ``log`` the thread that writes them and
``verify`` the proof that nobody changed them.
"""

from services.audit.notes import SILENT, Audit, AuditAway, Fact, Kind

__all__ = ["SILENT", "Audit", "AuditAway", "Fact", "Kind"]
