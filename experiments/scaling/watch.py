"""main.py, watched: what it holds in memory at each of its stages.

    python experiments/scaling/watch.py OUT.json --config=... [any flag of main.py]

A thread reads the resident memory every few milliseconds and books it to the stage that the run is in. OUT.json:
{"stages": [{stage, peak_bytes, drift_bytes}], "programs": compiled, "live_arrays", "live_bytes" of JAX at the end}.
"""

import json
import os
import runpy
import sys
import threading
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from infoutil_jax.clock import CLOCK, OTHER  # noqa: E402  (found through the line above)

PERIOD = 0.01  # seconds
WARM = 0.5  # of a stage's samples, before its drift is counted: programs are compiled in them
COMPILED = "/jax/core/compile/backend_compile_duration"


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch(threading.Thread):
    """Samples {stage: [bytes]} until `finished` is set; what lies between two stages is called after the former."""

    def __init__(self):
        super().__init__(daemon=True)
        self.samples, self.finished, self._last = {}, threading.Event(), "start"

    def run(self):
        while not self.finished.wait(PERIOD):
            stage = CLOCK._stack[-1][0].split("/")[0]  # nothing else asks the clock where it is
            if stage != OTHER:
                self._last = f"after {stage}"
            self.samples.setdefault(self._last if stage == OTHER else stage, []).append(resident())

    def stages(self) -> list[dict]:
        """Peak of every stage, and how much more its last sample is than one after its start."""
        drift = lambda held: held[-1] - held[int(WARM * len(held))]
        return [{"stage": s, "peak_bytes": max(h), "drift_bytes": drift(h)} for s, h in self.samples.items()]


def main(out: str, script: str, *arguments: str) -> None:
    programs, watch = [], Watch()
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: programs.append(event))
    sys.argv = [script, *arguments]
    watch.start()
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        watch.finished.set()
        watch.join()
        live = jax.live_arrays()
        held = {"live_arrays": len(live), "live_bytes": sum(array.nbytes for array in live)}
        Path(out).write_text(json.dumps({"stages": watch.stages(), "programs": programs.count(COMPILED), **held}))


if __name__ == "__main__":
    main(sys.argv[1], str(ROOT / "main.py"), *sys.argv[2:])
