"""What this machine can do: probes, profile, cost model, planner."""
