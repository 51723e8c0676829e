"""Videos and images, read by PyAV: frames, thumbnails, probes, and films joined into one.

It may use `models`. Only this folder and the simulator import `av`.
"""
