"""Findings of `sensenova doctor` as text and as JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from config.sizes import format_size
from config.units import format_memory
from sensenova_cli.render.bench import ceilings_line
from sensenova_cli.render.progress import format_rate
from sensenova_cli.render.table import plain_table, print_table
from sensenova_cli.system.unicode import for_terminal

if TYPE_CHECKING:
    from model.bench import Examination, Machine, OffloadPlan

GIB = 2**30


def machine_lines(machine: "Machine") -> list[str]:
    """Return lines about Python, PyTorch, the device and its kernels."""
    lines = [f"python {machine.python} · torch {machine.torch} · {machine.cores} cores"]
    device = f"device {machine.device}"
    if machine.memory is not None:
        total, free = machine.memory
        device += f" · {total / GIB:.1f} GiB, {free / GIB:.1f} GiB free"
    lines.append(device + (f" · {machine.gpus} GPUs" if machine.gpus > 1 else ""))
    if machine.kernel_obstacle is not None:
        lines.append(f"kernels: plain, which is slower: {machine.kernel_obstacle}")
    elif machine.on_gpu:
        lines.append("kernels: compiled for this GPU at first use")
    return lines


def bandwidth_line(found: "Examination") -> str:
    """Return a line with all measured rates."""
    parts = [ceilings_line(found.ceilings)]
    if found.bandwidth.link is not None:
        parts.append(f"link {format_rate(found.bandwidth.link, 'B/s')}")
    if found.bandwidth.files is not None:
        parts.append(f"files {format_rate(found.bandwidth.files, 'B/s')}")
    return " · ".join(parts)


def print_forecasts(found: "Examination", model: str) -> None:
    """Print a row for each picture size and offload plan; `*` marks the plan that `--offload auto` chooses."""
    if found.budget is None:
        print(f"\n{for_terminal(model)}: this system does not report free memory, so nothing can be predicted")
        return
    print(f"\n{for_terminal(model)} in {found.dtype}, {format_memory(found.budget)} usable\n")
    table = plain_table("", "size", "offload", "fits")
    for heading in ("peak", "guided step"):
        table.add_column(heading, justify="right")
    for each in found.forecasts:
        table.add_row(
            "*" if each.chosen else "",
            format_size(each.size),
            plan_name(each.offload_plan),
            "yes" if each.fits else "no",
            format_memory(each.peak),
            f"{each.seconds:.3g} s",
        )
    print_table(table)
    if not any(each.chosen for each in found.forecasts):
        print("nothing of this fits: take a smaller picture (--size), more memory (--gpu-memory), or a larger device")


def plan_name(offload_plan: "OffloadPlan") -> str:
    """Return a description such as `layers, 14 at a time`."""
    return f"layers, {offload_plan.buffers} at a time" if offload_plan.kind == "layers" else offload_plan.kind


def forecast_json(found: "Examination", model: str) -> dict[str, Any]:
    """Return all findings, in bytes and seconds."""
    machine = asdict(found.machine)
    machine["obstacle"] = machine.pop("kernel_obstacle")  # scripts know the shorter key
    return {
        "machine": machine,
        "gemm_flops_per_second": found.ceilings.gemm,
        "copy_bytes_per_second": found.ceilings.copy,
        "link_bytes_per_second": found.bandwidth.link,
        "files_bytes_per_second": found.bandwidth.files,
        "model": model,
        "dtype": found.dtype,
        "usable_bytes": found.budget,
        "forecasts": [
            {
                "size": format_size(each.size),
                "offload": each.offload_plan.kind,
                "layers": each.offload_plan.buffers or None,
                "peak_bytes": each.peak,
                "fits": each.fits,
                "step_seconds": each.seconds,
                "chosen": each.chosen,
            }
            for each in found.forecasts
        ],
    }
