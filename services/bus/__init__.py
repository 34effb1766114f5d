"""Results on their way from the owner to the gateways: memory, Redis, Valkey."""
