"""A real one-node Kubernetes cluster on a bare Debian machine, without Docker.

Everything here uses the standard library alone: ``python3 -m e2e.cluster up``
runs before any virtual environment exists.
"""
