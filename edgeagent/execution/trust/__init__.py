"""Trust on disk: this machine's identity, its membership in a fleet, and the fleet that an operator keeps."""
