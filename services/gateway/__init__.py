"""From the bus to WebSocket, SSE and REST clients."""
