"""A first-order thermal model of an uncooled Raspberry Pi 5 under a chat model, for the governor's simulation.

C dT/dt = P - (T - ambient) / R. Every constant and how it was derived: docs/governor.md. Pure.
"""

from dataclasses import dataclass, replace

CORES = 4
THROTTLE_C = 80.0
"""The firmware begins to slow the cores: raspberrypi/documentation, frequency-management.adoc."""
IDLE_W = 3.0
"""u-labs.de, "So verbraucht der Raspberry Pi 5 ausgeschaltet bis zu 180x weniger Strom": idle, about 3 W."""
FULL_W = 11.2
"""geerlingguy/ai-benchmarks issue 7: peak while llama3.2:3b answers on four cores."""
FULL_TOK_S = 4.59
"""The same run."""
RESISTANCE_K_W = (50.0 - 22.0) / IDLE_W
"""Idles at about 50 °C without cooling (beamostore.com, "Raspberry Pi 5 Overheating?"), taken at 22 °C of air."""
CAPACITY_J_K = 38.7
"""180 s ("a few minutes": pidiylab.com, "Raspberry Pi 5 Cooling Guide", four busy cores at 22 °C, no cooling) from 50
to 80 °C at FULL_W: 180 s = R C ln((126.5 - 50) / (126.5 - 80))."""


@dataclass(frozen=True, slots=True)
class Board:
    """One lump: thermal resistance to the air, and heat capacity."""

    resistance_k_w: float = RESISTANCE_K_W
    capacity_j_k: float = CAPACITY_J_K

    def scaled(self, resistance: float, capacity: float) -> "Board":
        return replace(self, resistance_k_w=self.resistance_k_w * resistance, capacity_j_k=self.capacity_j_k * capacity)

    def rest_c(self, ambient_c: float) -> float:
        """Where an idle board settles."""
        return ambient_c + self.resistance_k_w * IDLE_W

    def after(self, temperature_c: float, watts: float, ambient_c: float, seconds: float) -> float:
        """One Euler step; a second is far below R C."""
        flow = watts - (temperature_c - ambient_c) / self.resistance_k_w
        return temperature_c + seconds * flow / self.capacity_j_k


def watts(cores: float) -> float:
    """Linear in busy cores (threads x duty): the least favourable to whoever uses fewer."""
    return IDLE_W + (FULL_W - IDLE_W) * cores / CORES


def tok_s(cores: float) -> float:
    """Linear, too; memory-bound decoding really loses less from fewer cores."""
    return FULL_TOK_S * cores / CORES
