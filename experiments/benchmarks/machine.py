"""What the figures were taken on; nothing that names a host or a path."""

import os
import platform
from importlib import metadata
from importlib.util import find_spec

PEERS = ("torch", "captum", "opacus", "shapiq", "matplotlib")
PACKAGES = ("jax", "jaxlib", "flax", "numpy", *PEERS)


def missing_peers() -> list[str]:
    return [name for name in PEERS if find_spec(name) is None]


def describe() -> dict:
    import jax

    device = jax.local_devices()[0]
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "device": f"{device.platform} ({device.device_kind})",
        "devices": len(jax.local_devices()),
    }


def processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = (line.split(":")[1].strip() for line in file if line.startswith("model name"))
        return next(names, platform.machine())


def versions() -> dict:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
