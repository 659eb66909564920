"""What a robot's navigation has, for lesson 14.

    grid            a robot, a map as cells, maps that are made up
    maps            maps from files, and downloads
    curves          lines and splines: their length, how sharply they bend, whether they are free
    planner         the shortest way, and Nav2's simple smoother
    poses           places and directions, cusps, tables
    bags            ROS bags, without ROS
    pictures        panels and animations
    command_line    what lesson 14 does with files
    teacher         the best of all rows of tokens, by dynamic programming
    training        how lesson 14's model was trained

Only the room `training` imports lessons.
"""
