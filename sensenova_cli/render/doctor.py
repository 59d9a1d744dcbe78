"""What `sensenova doctor` found, as lines of text and as JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from config.sizes import format_size
from config.units import format_memory
from sensenova_cli.render.bench import ceilings_line
from sensenova_cli.render.progress import rate

if TYPE_CHECKING:
    from model.bench import Examination, Machine, OffloadPlan

GIB = 2**30


def machine_lines(machine: "Machine") -> list[str]:
    """A few lines about the machine."""
    lines = [f"python {machine.python} · torch {machine.torch} · {machine.cores} cores"]
    about = f"device {machine.device}"
    if machine.memory is not None:
        total, free = machine.memory
        about += f" · {total / GIB:.1f} GiB, {free / GIB:.1f} GiB free"
    lines.append(about + (f" · {machine.gpus} GPUs" if machine.gpus > 1 else ""))
    if machine.kernel_obstacle is not None:
        lines.append(f"kernels: plain, which is slower: {machine.kernel_obstacle}")
    elif machine.on_gpu:
        lines.append("kernels: compiled for this GPU at first use")
    return lines


def supply_line(found: "Examination") -> str:
    """The measured rates."""
    parts = [ceilings_line(found.ceilings)]
    if found.supply.link is not None:
        parts.append(f"link {rate(found.supply.link, 'B/s')}")
    if found.supply.files is not None:
        parts.append(f"files {rate(found.supply.files, 'B/s')}")
    return " · ".join(parts)


def table_lines(found: "Examination", model: str, dtype: str) -> list[str]:
    """Sizes and placements, one a line."""
    if found.budget is None:
        return ["", f"{model}: this system does not tell how much memory is free, so that nothing can be predicted"]
    lines = ["", f"{model} in {dtype}, {format_memory(found.budget)} usable", ""]
    lines.append(f"  {'size':<11}{'placement':<24}{'fits':<6}{'peak':>10}{'guided step':>14}")
    for each in found.forecasts:
        mark = "*" if each.chosen else " "
        lines.append(
            f"{mark} {format_size(each.size):<11}{placement_name(each.offload_plan):<24}"
            f"{'yes' if each.fits else 'no':<6}{format_memory(each.peak):>10}{each.seconds:>12.3g} s"
        )
    if not any(each.chosen for each in found.forecasts):
        lines.append(
            "nothing of this fits: take a smaller picture (--size), more memory (--gpu-memory), or a larger device"
        )
    return lines


def placement_name(offload_plan: "OffloadPlan") -> str:
    """Like `layers, 14 at a time`."""
    return f"layers, {offload_plan.buffers} at a time" if offload_plan.kind == "layers" else offload_plan.kind


def forecast_json(found: "Examination", model: str, dtype: str) -> dict[str, Any]:
    """Everything, in bytes and seconds."""
    return {
        "machine": asdict(found.machine),
        "gemm_flops_per_second": found.ceilings.gemm,
        "copy_bytes_per_second": found.ceilings.copy,
        "link_bytes_per_second": found.supply.link,
        "files_bytes_per_second": found.supply.files,
        "model": model,
        "dtype": dtype,
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
