"""Running a step where the GPUs are: on a static Ray cluster, or on one of its own by KubeRay."""
