"""Moving frames between a device and a peer."""
