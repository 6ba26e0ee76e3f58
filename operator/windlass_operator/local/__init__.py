"""The control plane in one process, without Kubernetes: runner processes instead of pods, resources in memory."""
