"""Running a step where the GPUs are: on a standing Ray cluster, or on one that KubeRay makes for it."""
