"""What a core of the host does in a second, with files of ImageNet's usual size made from scikit-learn's photographs.

    python experiments/scaling/host.py     # some seconds; writes host.json here

images: read as every image of a run is (decode, resize to 256, crop to 224 pixels). files: opened as a folder's are,
header only. records: written to and read from a distilled set of 1,000 classes. By processor time of one thread, so
that a busy machine changes little; medians of several rounds.
"""

import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from experiments.scaling.run import hardware  # noqa: E402  (found through the line above)
from infoutil_jax.data.decode import decode, fit, look  # noqa: E402
from infoutil_jax.records import Layout, decode_example, encode_example  # noqa: E402
from infoutil_jax.stages.compose import stitch, unstitch  # noqa: E402
from infoutil_jax.types import DistilledImage  # noqa: E402

SIZE = (500, 375)  # pixels, the commonest of ImageNet
QUALITY = 98  # files of about ImageNet's mean size, 110 kB
SIDE, FACTOR, CLASSES = 224, 2, 1000
ROUNDS, CALLS = 7, 24


def photographs() -> list[bytes]:
    """The two photographs as encoded files."""
    files = []
    for name in ("china.jpg", "flower.jpg"):
        file = io.BytesIO()
        Image.fromarray(load_sample_image(name)).resize(SIZE).save(file, "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return files


def read(data: bytes) -> np.ndarray:
    return fit(decode(data, "photograph", exif=False, max_megapixels=64), SIDE)


def header(path: Path) -> None:
    with open(path, "rb") as file:
        look(file, "photograph", max_megapixels=64)


def mosaic(image_u8: np.ndarray) -> DistilledImage:
    """A record of four quarters of a photograph and logits that are no round numbers."""
    k, draws = FACTOR**2, np.random.default_rng(0)
    logits, norms = (draws.normal(size=shape).astype(np.float32) for shape in ((k, CLASSES), (k,)))
    tiles_u8 = unstitch(image_u8[None], FACTOR)
    boxes = np.zeros((k, 4), np.int32)
    return DistilledImage(stitch(tiles_u8)[0], 0, logits, ("train/n01440764/0.JPEG",) * k, boxes, norms, norms)


def rate(task, items: list) -> float:
    """Median over rounds of calls a processor second, items in turns."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for number in range(CALLS):
            task(items[number % len(items)])
        seconds.append(time.thread_time() - began)
    return round(CALLS / statistics.median(seconds), 1)


def rates(files: list[bytes]) -> dict:
    examples = [mosaic(read(data)) for data in files]
    layout = Layout("photographs", tuple(map(str, range(CLASSES))), 1, SIDE, FACTOR**2, CLASSES)
    payloads = [encode_example(example) for example in examples]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(len(files))]
        for path, data in zip(paths, files):
            path.write_bytes(data)
        return {
            "bytes_per_image": round(sum(map(len, files)) / len(files)),
            "bytes_per_record": round(sum(map(len, payloads)) / len(payloads)),
            "images_per_core_second": rate(read, files),
            "files_per_core_second": rate(header, paths),
            "records_written_per_core_second": rate(encode_example, examples),
            "records_read_per_core_second": rate(lambda payload: decode_example(payload, layout), payloads),
        }


def main() -> None:
    asked = {"command": "python experiments/scaling/host.py", "hardware": hardware(), "seed": 0}
    record = {**asked, "load_average": os.getloadavg()[0], **rates(photographs())}
    (HERE / "host.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
