"""Devices, processes and signals: where and how a run computes."""
