"""edgeagent: an on-device LLM agent that measures, plans, hands over and explains."""

__version__ = "0.1.0"
