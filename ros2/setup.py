"""The package for `colcon build`: the server, and a copy of those files of the project that it needs."""

import os
from glob import glob

from setuptools import setup

NAME = "smooth_path_dllm"
PROJECT = [path for name in ("*.py", "robots/*.py", "tools/*.py") for path in glob(f"../{name}")]
PROJECT += ["../checkpoints/paths.safetensors"]
FILES = [(f"share/{NAME}/project/{os.path.dirname(path)[3:]}", [path]) for path in PROJECT]

setup(
    name=NAME,
    version="2.0.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("launch/*.py")),
        *FILES,
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="tiny-dllm",
    maintainer_email="nobody@example.com",
    description="A smoother for Nav2, by a masked-diffusion model of paths",
    license="MIT",
    entry_points={"console_scripts": [f"server = {NAME}.server:main"]},
)
