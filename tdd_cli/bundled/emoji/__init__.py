"""The emoji miniature: where its files are.

data.parquet      pictures of things in five styles (build.py)
evaluation.csv    the fixed prompts and seeds (build.py)
teacher/          a StableDiffusionXLPipeline folder (train/)
"""

from pathlib import Path

FOLDER = Path(__file__).parent
DATA = FOLDER / "data.parquet"
EVALUATION = FOLDER / "evaluation.csv"
TEACHER = FOLDER / "teacher"
STUDENT = FOLDER / "student"

IMAGE_SIZE = 64  # pixels
GUIDANCE = 1.75  # scale at which the teacher's pictures are most like the data set's (docs/results.md)
STYLES = {  # our name: how a caption calls it
    "noto": "noto",
    "twemoji": "twemoji",
    "fluent-flat": "flat",
    "fluent-3d": "3d",
    "emojione": "emojione",
}
