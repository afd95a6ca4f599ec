"""Trains the miniature teacher, part by part, in the cache folder, and exports it into the package.

python -m tdd_cli.bundled.emoji.train vae  --minutes 15
python -m tdd_cli.bundled.emoji.train text --minutes 4
python -m tdd_cli.bundled.emoji.train unet --minutes 75
python -m tdd_cli.bundled.emoji.train export
python -m tdd_cli.bundled.emoji.train features      # the feature network of tdd eval, on its own
python -m tdd_cli.bundled.emoji.train style         # a style LoRA for docs/distil-your-own.md, a minute
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tdd_cli.bundled.emoji import TEACHER
from tdd_cli.bundled.emoji.train import loop


def main() -> None:
    """Parse, and run one part."""
    parser = argparse.ArgumentParser(
        prog="train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=loop.cache_folder(), help="checkpoints and logs (default: the cache)"
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name, minutes in {"vae": 15.0, "text": 3.0, "unet": 75.0}.items():
        part = parts.add_parser(name)
        part.add_argument(
            "--minutes", type=float, default=minutes, help="training time, earlier sittings included"
        )
        if name != "text":
            part.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
        if name == "unet":
            part.add_argument(
                "--rewarm", action="store_true", help="a new budget, from the checkpoint's average"
            )
    parts.add_parser("features").add_argument("--steps", type=int, default=600, help="of 128 pictures each")
    style = parts.add_parser("style")
    style.add_argument("--steps", type=int, default=250, help="of 32 pictures each")
    style.add_argument("--out", type=Path, default=Path("sepia.safetensors"))
    parts.add_parser("export").add_argument("--out", type=Path, default=TEACHER)
    args = vars(parser.parse_args())
    args["folder"].mkdir(parents=True, exist_ok=True)
    run = {
        "vae": _vae,
        "text": _text,
        "unet": _unet,
        "features": _features,
        "style": _style,
        "export": _export,
    }
    run[args.pop("part")](**args)


def _vae(**options: Any) -> None:
    from tdd_cli.bundled.emoji.train import vae

    vae.train(**options)


def _text(**options: Any) -> None:
    from tdd_cli.bundled.emoji.train import text

    text.train(**options)


def _unet(**options: Any) -> None:
    from tdd_cli.bundled.emoji.train import unet

    unet.train(**options)


def _features(**options: Any) -> None:
    from tdd_cli.bundled.emoji.train import features

    features.train(**options)


def _style(**options: Any) -> None:
    from tdd_cli.bundled.emoji.train import style

    style.train(**options)


def _export(**options: Any) -> None:
    from tdd_cli.bundled.emoji.train.export import export

    export(**options)


if __name__ == "__main__":
    main()
