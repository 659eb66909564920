"""Lesson 14 as a smoother of Nav2. Importing this package makes the project's own files importable.

They lie in the checkout, or where `colcon build` put a copy of them.
"""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
if not (PROJECT / "14_robot_paths.py").exists():
    from ament_index_python.packages import get_package_share_directory

    PROJECT = Path(get_package_share_directory("smooth_path_dllm")) / "project"
sys.path.append(str(PROJECT))
