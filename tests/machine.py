"""What tests have to know of the machine they run on."""

from pathlib import Path

REPACKS = " amx_tile" not in Path("/proc/cpuinfo").read_text()
"""For `extra_buffers`: llama.cpp 0.3.36 ends with SIGILL or SIGSEGV where a virtual machine's CPU tells of AMX."""
