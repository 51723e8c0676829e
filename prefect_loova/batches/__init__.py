"""Many jobs: plan and price a list, schedule it, read manifests and storyboards, add up credits.

It may use `jobs` and all below it. It does not import Prefect.
"""
