"""Reads videos and images with PyAV: frames, previews, probes, and several videos joined into one.

It may use `models`. Only this folder and the simulator import `av`.
"""
