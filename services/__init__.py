"""Everything asynchronous: ingest, bus, gateway, pages and the command line."""
