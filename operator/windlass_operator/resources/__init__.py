"""The custom resources: pydantic models that are the only source of the CRDs, their conditions and their reasons."""
