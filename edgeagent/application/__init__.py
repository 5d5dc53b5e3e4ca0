"""Surfaces: how the outside reaches the agent. They do not know each other."""
