"""Duty of an engine: after work it owes rest, and pays it in short naps so that messages get in between."""

import time

NAP_S = 0.1
MIN_DUTY = 0.02


class Pace:
    """`duty` is the share of the time to work, (0, 1]. Resting changes no bits."""

    def __init__(self) -> None:
        self.duty = 1.0
        self._owed_s = 0.0

    def set_duty(self, duty: float) -> None:
        self.duty = min(1.0, max(MIN_DUTY, duty))
        self._owed_s = 0.0

    def worked(self, seconds: float) -> None:
        self._owed_s += seconds * (1.0 / self.duty - 1.0)

    def rested(self) -> bool:
        """Takes one nap of what is owed; False when nothing is."""
        if self._owed_s <= 0.0:
            return False
        nap_s = min(NAP_S, self._owed_s)
        time.sleep(nap_s)
        self._owed_s -= nap_s
        return True
