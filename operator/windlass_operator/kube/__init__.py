"""The Kubernetes adapter: raw objects in and out, errors in our own words, and pure readers and builders of pods."""
