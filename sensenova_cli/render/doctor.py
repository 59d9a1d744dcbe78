"""Findings of `sensenova doctor` as text and as JSON."""

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from config.mentions import mention
from config.sizes import format_size
from config.units import format_bytes, format_memory
from sensenova_cli.render.bench import ceilings_line
from sensenova_cli.render.progress import format_rate
from sensenova_cli.render.spelling import as_flags
from sensenova_cli.render.table import plain_table, print_table
from sensenova_cli.system.unicode import for_terminal

if TYPE_CHECKING:
    from model.bench import Examination, Forecast, Machine, OffloadPlan

SLOW_PICTURE = 600
"""Seconds of a picture from which the verdict suggests another machine."""
LEGEND = """\
*          the choice of --offload auto, the default
offload    off: all weights stay in memory; module: one tower at a time; layers: some layers at a time,
           and the others are read from the files in every step
a step     one denoising step with guidance
These are predictions from the measured speed of this machine; real times often differ by a quarter."""
LEGEND_WIDTH = 100


def verdict(found: "Examination", model: str, steps: int) -> str:
    """Answer whether this machine can draw with a model, for the first of the examined sizes.

    Args:
        steps: denoising steps of a picture.
    """
    if found.budget is None:
        return f"{for_terminal(model)}: this system does not report free memory, so nothing can be predicted"
    size = found.forecasts[0].size
    name = f"{for_terminal(model)} at {format_size(size)}"
    usable = f"{format_memory(found.budget)} are usable"
    forecasts = [each for each in found.forecasts if each.size == size]
    chosen = next((each for each in forecasts if each.chosen), None)
    if chosen is None:
        least = format_memory(min(each.peak for each in forecasts))
        return (
            f"No: {name} needs at least {least}, and {usable}. Use a smaller picture ({mention('size')}), more memory "
            f"({mention('gpu_memory')}), another machine, or a server ({mention('server')})."
        )
    device = "GPU" if found.machine.on_gpu else "CPU" if " cpu" in found.machine.device else "device"
    picture = chosen.seconds * steps
    fits = (
        f"{name} fits in {format_memory(chosen.peak)} ({usable}), "
        f"about {duration(chosen.seconds)} a step and {duration(picture)} a picture on this {device}"
    )
    if picture < SLOW_PICTURE:
        return f"Yes: {fits}."
    return (
        f"Yes, but slowly: {fits}. Use a {'faster ' if device == 'GPU' else ''}GPU or a server ({mention('server')})."
    )


def duration(seconds: float) -> str:
    """Return a time such as `0.26 s`, `41 s`, `41 min`, `34 h` or `12 days`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    units = (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 3 * 86_400))
    name, unit = next(((name, unit) for name, unit, limit in units if seconds < limit), ("days", 86_400))
    return f"{seconds / unit:.0f} {name}"


def machine_lines(machine: "Machine") -> list[str]:
    """Return lines about Python, PyTorch, the device, its kernels and its eight-bit format."""
    lines = [f"python {machine.python} · torch {machine.torch} · {machine.cores} cores"]
    device = f"device {machine.device}"
    if machine.memory is not None:
        total, free = machine.memory
        device += f" · {format_memory(total)}, {format_memory(free)} free"
    lines.append(device + (f" · {machine.gpus} GPUs" if machine.gpus > 1 else ""))
    if machine.kernel_obstacle is not None:
        lines.append(f"kernels: plain, which is slower: {machine.kernel_obstacle}")
    elif machine.on_gpu:
        lines.append("kernels: compiled for this GPU at first use")
    lines.append(f"eight bits: {as_flags(machine.eight_bits)}")
    return lines


def bandwidth_line(found: "Examination") -> str:
    """Return a line with all measured rates."""
    parts = [ceilings_line(found.ceilings)]
    if found.bandwidth.link is not None:
        parts.append(f"link {format_rate(found.bandwidth.link, 'B/s')}")
    if found.bandwidth.files is not None:
        parts.append(f"files {format_rate(found.bandwidth.files, 'B/s')}")
    return " · ".join(parts)


def weights_line(weights: dict[str, Any]) -> str:
    """Return a line about the file of the setting `weights`."""
    name = for_terminal(weights["file"])
    if weights["kind"] is None:
        return f"weights: {name} is not on this machine"
    parts = [f"weights: {name}: {weights['kind']}, {format_bytes(weights['bytes'])}"]
    if not weights["writes_text"]:
        parts.append("without lm_head, so it draws and cannot write")
    if weights["note"]:
        parts.append(weights["note"])
    return "; ".join(parts)


def print_findings(found: "Examination", model: str, steps: int) -> None:
    """Print the verdict, the machine, and a row for each picture size and offload plan, with a legend.

    Args:
        steps: denoising steps of a picture.
    """
    print(textwrap.fill(as_flags(verdict(found, model, steps)), LEGEND_WIDTH, break_on_hyphens=False))
    print("\n" + "\n".join([*machine_lines(found.machine), bandwidth_line(found)]))
    if found.budget is None:
        return
    print(f"\n{for_terminal(model)} in {found.dtype}, {format_memory(found.budget)} usable\n")
    table = plain_table("", "size", "offload", "fits")
    for heading in ("peak memory", "a step", f"a picture ({steps} steps)"):
        table.add_column(heading, justify="right")
    for each in found.forecasts:
        table.add_row(*_row(each, steps))
    print_table(table)
    print("\n" + LEGEND)
    chosen = next((each for each in found.forecasts if each.chosen), None)
    if chosen is not None and chosen.text_pass_bytes:
        print(text_line(chosen.text_pass_bytes, found.bandwidth.rate))
    streams = any(each.fits and each.offload_plan.kind == "layers" for each in found.forecasts)
    if streams and found.bandwidth.rate is None:
        print("The model's files are not here, so the time of reading them is not included.")


def text_line(loaded: int, rate: float | None) -> str:
    """Return a line about text for which weights are loaded again and again.

    Args:
        loaded: bytes of weights that each pass loads.
        rate: bytes that are loaded in a second; None if not measured.
    """
    line = f"Text beside such a picture loads {format_memory(loaded)} of weights for each token"
    if rate is not None:
        line += f", which takes {duration(loaded / rate)}"
    return line + "; words of the prompt take less."


def _row(forecast: "Forecast", steps: int) -> tuple[str, ...]:
    return (
        "*" if forecast.chosen else "",
        format_size(forecast.size),
        plan_name(forecast.offload_plan),
        "yes" if forecast.fits else "no",
        format_memory(forecast.peak),
        duration(forecast.seconds),
        duration(forecast.seconds * steps),
    )


def plan_name(offload_plan: "OffloadPlan") -> str:
    """Return a description such as `layers, 14 at a time`."""
    return f"layers, {offload_plan.gen_buffers} at a time" if offload_plan.kind == "layers" else offload_plan.kind


def forecast_json(found: "Examination", model: str, steps: int) -> dict[str, Any]:
    """Return all findings, in bytes and seconds."""
    machine = asdict(found.machine)
    machine["eight_bits"] = as_flags(machine["eight_bits"])
    machine["obstacle"] = machine.pop("kernel_obstacle")  # scripts know the shorter key
    return {
        "verdict": as_flags(verdict(found, model, steps)),
        "machine": machine,
        "gemm_flops_per_second": found.ceilings.gemm,
        "copy_bytes_per_second": found.ceilings.copy,
        "link_bytes_per_second": found.bandwidth.link,
        "files_bytes_per_second": found.bandwidth.files,
        "model": model,
        "dtype": found.dtype,
        "usable_bytes": found.budget,
        "steps": steps,
        "forecasts": [
            {
                "size": format_size(each.size),
                "offload": each.offload_plan.kind,
                "layers": each.offload_plan.gen_buffers or None,
                "peak_bytes": each.peak,
                "fits": each.fits,
                "step_seconds": each.seconds,
                "picture_seconds": each.seconds * steps,
                "chosen": each.chosen,
                "text_pass_bytes": each.text_pass_bytes,
            }
            for each in found.forecasts
        ],
    }
