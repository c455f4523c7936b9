"""The servers of `make services`: started, watched, stopped, and the deployments registered with them."""
