"""Small sets on disk: pictures with captions, and a folder in COCO's layout."""

import io
import json
import tarfile

import torch
from PIL import Image

WORDS = ("fox", "dog", "cat", "sun", "moon", "tree")


def picture(seed, size=(32, 32)):
    """A picture of smooth noise, its own for every seed."""
    noise = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    pixels = torch.nn.functional.interpolate(noise, size[::-1], mode="bilinear")[0]
    return Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy())


def picture_folder(folder, count, *, size=(32, 32), first=0):
    """Pictures 000.png, 001.png, ... with a metadata.csv of captions."""
    folder.mkdir(parents=True)
    lines = ["file_name,text"]
    for i in range(count):
        picture(first + i, size).save(folder / f"{i:03d}.png")
        lines.append(f"{i:03d}.png,a {WORDS[i % len(WORDS)]}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def coco_folder(folder, count, year=2014):
    """The official layout: two captions a picture, of which the one with the smaller id is the later one."""
    (folder / f"val{year}").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for i in range(1, count + 1):
        name = f"COCO_val{year}_{i:012d}.jpg"
        picture(i, (40, 32)).save(folder / f"val{year}" / name, quality=95)
        images.append({"id": i, "file_name": name})
        annotations.append({"image_id": i, "id": 1000 + i, "caption": f"another of {i}"})
        annotations.append({"image_id": i, "id": i, "caption": f"A {WORDS[i % len(WORDS)]} of {i}.\n"})
    found = {"images": images, "annotations": annotations}
    (folder / "annotations" / f"captions_val{year}.json").write_text(json.dumps(found))
    return folder


def encoded(colour="red", size=(16, 12), kind="PNG"):
    """A picture of one colour as the bytes of its file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def write_tar(path, members, **settings):
    """A tar of these files: name -> content."""
    with tarfile.open(path, "w", **settings) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path
