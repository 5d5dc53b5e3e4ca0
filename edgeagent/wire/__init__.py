"""The peer protocol without I/O: messages, frames, blocks, windows, topics."""
