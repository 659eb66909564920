"""ros2 launch smooth_path_dllm smooth_path.launch.py costmap_topic:=/global_costmap/costmap robot_radius:=0.3"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

DEFAULTS = dict(
    costmap_topic="/global_costmap/costmap", robot_radius="0.22", turning_radius="0.4", clearance="0.0",
    autostart="true", use_sim_time="false",
)  # fmt: skip
KINDS = dict(costmap_topic=str, autostart=bool, use_sim_time=bool)


def generate_launch_description():
    """The server, with its parameters as arguments."""
    values = {name: ParameterValue(LaunchConfiguration(name), KINDS.get(name, float)) for name in DEFAULTS}
    name = "smooth_path_dllm"
    server = LifecycleNode(package=name, executable="server", name=name, namespace="", parameters=[values])
    arguments = [DeclareLaunchArgument(name, default_value=value) for name, value in DEFAULTS.items()]
    return LaunchDescription([*arguments, server])
