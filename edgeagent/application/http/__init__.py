"""The HTTP surface: an OpenAI-compatible API, this program's own API, and the page."""
