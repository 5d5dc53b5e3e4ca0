"""The agent: answering, the tool loop, tools, memory."""
