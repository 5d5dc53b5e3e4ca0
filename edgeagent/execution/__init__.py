"""Effects: engines in worker processes, transports, and the handover of generations between them."""
