"""The line that is printed after a turn."""

from config.units import count_of, format_memory
from model import Statistics


def turn_summary(statistics: Statistics) -> str:
    """Return a line such as `9.3 s · 50 steps, 4.21 steps/s · 9 tokens, 35.0 tok/s · peak memory 32.5 GiB on cuda`."""
    parts = [f"{statistics.seconds:.1f} s"]
    if statistics.steps:
        parts.append(
            count_of(statistics.steps, "step") + _rate(statistics.steps, statistics.denoise_seconds, "steps/s")
        )
    if statistics.new_tokens:
        parts.append(
            count_of(statistics.new_tokens, "token") + _rate(statistics.new_tokens, statistics.text_seconds, "tok/s")
        )
        if statistics.text_passes:
            parts.append(f"{statistics.new_tokens / statistics.text_passes:.1f} tokens a pass")
    peak = f"peak memory {format_memory(statistics.peak_memory)} " if statistics.peak_memory else ""
    parts.append(f"{peak}on {statistics.device}")
    return " · ".join(parts)


def _rate(count: int, seconds: float, unit: str) -> str:
    return f", {count / seconds:.2f} {unit}" if seconds > 0 else ""
