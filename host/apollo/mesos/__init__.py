"""Mesos and Marathon."""
